"""What stands in for the parts of a checkpoint that are absent, if its weights are random."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ..text.tokenizer import Tokenizer


def placeholder_tokenizer(vocab_size: int) -> Tokenizer:
    """Tokens 0 to 255 are bytes; every further one is written as its number, "<300>". No token ends an answer."""
    # The characters that byte-level BPE writes for bytes: printable ones for themselves, others from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    written = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocab = {written[i] if i < 256 else f"<{i}>": i for i in range(vocab_size)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)
