"""Text to token ids and back, by the `tokenizers` library, from a tokenizer.json or from GGUF metadata."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from .detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer


class UnsupportedTokenizer(ValueError):
    """The checkpoint's tokenizer is of a kind that is not implemented; the message names it."""


_LLAMA3_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """The splitting rule that `tokenizer.ggml.pre` names."""
    if name == "gpt-2":
        return _byte_level(use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level(use_regex=True)])
    if name == "llama-bpe":
        split = pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), behavior="isolated")
        return pre_tokenizers.Sequence([split, _byte_level(use_regex=False)])
    raise UnsupportedTokenizer(
        f"tokenizer.ggml.pre={name!r} is not supported: use a checkpoint with gpt-2, smollm or llama-bpe, "
        "or a Hugging Face directory with a tokenizer.json"
    )


# Values of tokenizer.ggml.token_type.
_CONTROL: Final = 3
_USER_DEFINED: Final = 4


class Tokenizer:
    """Encodes and decodes; knows the special tokens and which of them end an answer. Safe to share between threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token_id: int | None = None,
        eos_token_ids: Sequence[int] = (),
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """`special_tokens` are the names that chat templates read, such as {"eos_token": "<|im_end|>"}."""
        self.backend = backend
        """The `tokenizers.Tokenizer` (for `tokenizers.decoders.DecodeStream`, say)."""
        self.bos_token_id = bos_token_id
        self.eos_token_ids: frozenset[int] = frozenset(eos_token_ids)
        """Tokens that end an answer."""
        self.special_tokens: dict[str, str] = dict(special_tokens or {})
        added = backend.get_added_tokens_decoder()
        self.special_token_ids: frozenset[int] = frozenset(i for i, token in added.items() if token.special)
        """Tokens that `decode` leaves out by default."""
        self.added_tokens: dict[str, int] = {token.content: i for i, token in added.items()}
        """Tokens that are found in a text before it is split: special ones, and others such as <tool_call>."""
        self.exact_units = not any(t.lstrip or t.rstrip or t.single_word or t.normalized for t in added.values()) or (
            backend.normalizer is None and not any(t.lstrip or t.rstrip or t.single_word for t in added.values())
        )
        """Whether a text may be encoded in parts that begin at added tokens."""
        self._token_bytes = _token_bytes(backend) if isinstance(backend.decoder, decoders.ByteLevel) else None
        self._shown_bytes: list[bytes] | None = None
        if self._token_bytes is not None:
            self._shown_bytes = list(self._token_bytes)
            for token in self.special_token_ids:
                self._shown_bytes[token] = b""
        self.longest_token = max(map(len, self._token_bytes)) if self._token_bytes else None
        """Bytes of the longest token, if tokens are bytes and every text of n bytes has at least n / that many."""
        if backend.normalizer is not None:
            self.longest_token = None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> NDArray[np.int32]:
        """Token ids, int32 [n]. Special tokens written out in `text` become their ids.

        `add_special_tokens` also adds what the checkpoint puts around a plain prompt (a BOS, if any); leave it out
        for a prompt from a chat template, which writes its own.
        """
        return self.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[NDArray[np.int32]]:
        """`encode` of each text. Other threads run meanwhile, which the library's call for one text does not allow."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | NDArray[np.integer], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        plain = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        return self.backend.decode(plain, skip_special_tokens=skip_special_tokens)

    def detokenizer(self, prompt: Sequence[int] = (), skip_special_tokens: bool = True) -> Detokenizer:
        """Makes text of output tokens that follow `prompt` (its last few tokens are enough)."""
        table = self._shown_bytes if skip_special_tokens else self._token_bytes
        if table is not None:
            return ByteDetokenizer(table)
        silent = self.special_token_ids if skip_special_tokens else ()
        return WindowDetokenizer(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens), prompt, silent)

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        eos_token_ids: Sequence[int] = (),
        special_tokens: Mapping[str, str] | None = None,
    ) -> "Tokenizer":
        """Read a tokenizer.json. The BOS and EOS that `special_tokens` name are looked up; the EOS joins the ends.

        Raises UnsupportedTokenizer if the library cannot read the file.
        """
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise UnsupportedTokenizer(f"{path} is not a tokenizer.json that can be read: {error}") from error
        # Truncation and padding belong to training batches; a server must see the prompt as it was sent.
        backend.no_truncation()
        backend.no_padding()
        names = dict(special_tokens or {})
        bos, eos = (backend.token_to_id(names[key]) if key in names else None for key in ("bos_token", "eos_token"))
        ends = {*eos_token_ids, *(() if eos is None else (eos,))}
        return cls(backend, bos_token_id=bos, eos_token_ids=sorted(ends), special_tokens=names)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build from the `tokenizer.ggml.*` keys. Raises UnsupportedTokenizer naming what is not known or wrong."""
        model = metadata.get("tokenizer.ggml.model")
        if model != "gpt2":
            raise UnsupportedTokenizer(
                f"tokenizer.ggml.model={model!r} is not supported: use a checkpoint with byte-level BPE ('gpt2')"
            )
        pre = str(metadata.get("tokenizer.ggml.pre", "gpt-2"))
        pre_tokenizer = _pre_tokenizer(pre)
        tokens, merges = _strings(metadata, "tokens"), _strings(metadata, "merges")
        try:
            bpe = models.BPE(
                vocab={token: i for i, token in enumerate(tokens)},
                merges=[_pair(merge) for merge in merges],
                fuse_unk=False,
                byte_fallback=False,
                ignore_merges=pre == "llama-bpe",
            )
        except Exception as error:  # the library raises plain Exception
            raise UnsupportedTokenizer(f"tokenizer.ggml.merges do not fit the tokens: {error}") from error
        backend = tokenizers.Tokenizer(bpe)
        backend.pre_tokenizer = pre_tokenizer
        backend.decoder = decoders.ByteLevel()
        kinds = metadata.get("tokenizer.ggml.token_type", [])
        if not isinstance(kinds, list):
            raise UnsupportedTokenizer(f"tokenizer.ggml.token_type={kinds!r} is not a list")
        for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
            chosen = [token for token, k in zip(tokens, kinds, strict=False) if k == kind]
            backend.add_tokens([AddedToken(token, special=special, normalized=False) for token in chosen])

        ids = {
            name: _token_id(metadata, name, len(tokens)) for name in ("bos", "eos", "unknown", "padding", "eot", "eom")
        }
        bos = ids["bos"]
        if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", False):
            backend.post_processor = TemplateProcessing(
                single=[tokens[bos], "$A"], pair=None, special_tokens=[(tokens[bos], bos)]
            )
        names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
        return cls(
            backend,
            bos_token_id=bos,
            eos_token_ids=[i for name in ("eos", "eot", "eom") if (i := ids[name]) is not None],
            special_tokens={names[name]: tokens[i] for name, i in ids.items() if name in names and i is not None},
        )


def _token_bytes(backend: tokenizers.Tokenizer) -> list[bytes]:
    """The bytes of each token of a byte-level vocabulary, by id."""
    byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
    table = [b""] * (max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1)
    for token, i in backend.get_vocab(with_added_tokens=True).items():
        try:
            table[i] = bytes([byte_of[character] for character in token])
        except KeyError:  # an added token, which stands for itself
            table[i] = token.encode()
    return table


def _byte_characters() -> list[str]:
    """The characters that byte-level BPE writes for the bytes 0 to 255 (GPT-2, Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    values = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UnsupportedTokenizer(f"the GGUF metadata lacks tokenizer.ggml.{key}, a list of strings")
    return values


def _token_id(metadata: Mapping[str, Any], name: str, vocab: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < vocab:
        raise UnsupportedTokenizer(f"tokenizer.ggml.{name}_token_id={value!r} is not one of the {vocab} tokens")
    return value


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
