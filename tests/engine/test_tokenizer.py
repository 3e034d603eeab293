"""Token ids and text equal those of transformers; the pre-tokenizer of SmolLM splits every digit."""

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from tokenspeed.engine.checkpoints.checkpoint import Checkpoint
from tokenspeed.engine.checkpoints.loader import find_smollm2
from tokenspeed.engine.text.tokenizer import Tokenizer, UnsupportedTokenizer

pytestmark = [pytest.mark.serve, pytest.mark.slow]

hf: Any = transformers  # typed in part only

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n\r\n\t\t  \n",
    "Hello, world!",
    "  leading and trailing  ",
    "It's we'll I'VE they'd don't",
    "In 1953, 12345 + 67.890 = 80235.89; v2.0.1-rc3",
    "def f(x: int) -> int:\n    if x:\n\t\treturn x ** 2  # squared\n\n\n",
    '{"key": [1, 2, {"a": null}], "emoji": "\\ud83d\\ude00"}',
    "naïve café Ångström e\u0301 \ufb01",
    "你好，世界！日本語のテキスト 한국어",  # noqa: RUF001
    "مرحبا بالعالم שלום",
    "🇺🇸👍🏽❤️‍🔥 family 👨‍👩‍👧‍👦",
    "\u0000\u0001\u007f\u200b\u2028\ufeff\ufffd",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_start|> <|im_end|>x<|endoftext|>",
    "<|im_start| <im_end|> <|notspecial|>",
    "a" * 500 + " " * 300 + "\n" * 100,
    "https://example.org/a/b?c=d&e=%20f#g",
    "SELECT * FROM t WHERE a <> 'b' AND c >= 10;--",
]


@pytest.fixture(scope="module")
def reference() -> Any:
    """What transformers builds from the same file, with the split of digits that its conversion leaves out."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    path = find_smollm2()
    tokenizer = hf.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    plain = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), plain]
    )
    return tokenizer


def check(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_ids_and_text_equal_those_of_transformers(smollm2: Checkpoint, reference: Any, text: str) -> None:
    ours = smollm2.tokenizer
    check(ours, reference, text)
    assert ours.decode(ours.encode(text), skip_special_tokens=False) == text


@given(
    st.lists(st.one_of(st.text(max_size=30), st.sampled_from(TEXTS), st.from_regex(r"[ \t\n]{1,9}|\d{1,9}|\w{1,9}")))
)
@settings(max_examples=300, deadline=None)
def test_any_text_does(smollm2: Checkpoint, reference: Any, pieces: list[str]) -> None:
    check(smollm2.tokenizer, reference, "".join(pieces))


@given(st.text(st.characters(codec="utf-8")))
@example("½ ² ٣ Ⅷ 一 𝟘")  # noqa: RUF001
@settings(max_examples=300, deadline=None)
def test_every_digit_is_a_piece_of_its_own(smollm2: Checkpoint, text: str) -> None:
    backend = smollm2.tokenizer.backend
    for piece, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text):
        source = text[start:end]
        assert piece
        if any(unicodedata.category(c).startswith("N") and c.isdecimal() for c in source):
            assert len(source) == 1


def test_special_tokens_and_ends(smollm2: Checkpoint) -> None:
    tokenizer = smollm2.tokenizer
    assert tokenizer.vocab_size == 49152
    assert tokenizer.eos_token_ids == {2}
    assert tokenizer.bos_token_id == 1
    assert tokenizer.special_token_ids == set(range(17))
    assert tokenizer.special_tokens["eos_token"] == "<|im_end|>"
    assert tokenizer.decode([1, 504, 2]) == tokenizer.decode(np.array([504], dtype=np.int32))


def test_half_a_character_becomes_the_replacement_character(smollm2: Checkpoint) -> None:
    ids = smollm2.tokenizer.encode("🫠")
    assert len(ids) > 1
    assert smollm2.tokenizer.decode(ids[:1]) == "\ufffd"


def gguf_metadata(**changes: Any) -> dict[str, Any]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", "<tool>", *alphabet, "12", "123", "Ġt"]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["1 2", "12 3", "Ġ t"],
        "tokenizer.ggml.token_type": [3, 3, 4, *[1] * (len(tokens) - 3)],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["t", "123", "4", " t"]),
        ("smollm", ["t", "1", "2", "3", "4", " t"]),
        ("llama-bpe", ["t", "123", "4", " t"]),
    ],
)
def test_each_pre_tokenizer_splits_digits_as_it_should(pre: str, pieces: list[str]) -> None:
    tokenizer = Tokenizer.from_gguf(gguf_metadata(pre=pre))
    assert [tokenizer.decode([i]) for i in tokenizer.encode("t1234 t").tolist()] == pieces


def test_a_bos_is_added_where_the_file_says_so_and_only_to_plain_prompts() -> None:
    tokenizer = Tokenizer.from_gguf(gguf_metadata(pre="llama-bpe", add_bos_token=True))
    plain = tokenizer.encode("t", add_special_tokens=False).tolist()
    assert tokenizer.encode("t").tolist() == [0, *plain]
    without = Tokenizer.from_gguf(gguf_metadata(pre="llama-bpe"))
    assert without.encode("t").tolist() == plain


def test_a_whole_word_in_the_vocabulary_needs_no_merges_in_llama_3_only() -> None:
    tokens = [*gguf_metadata()["tokenizer.ggml.tokens"], "xyz"]
    metadata = {"tokens": tokens, "token_type": [1] * len(tokens)}
    assert len(Tokenizer.from_gguf(gguf_metadata(pre="llama-bpe", **metadata)).encode("xyz")) == 1
    assert len(Tokenizer.from_gguf(gguf_metadata(pre="gpt-2", **metadata)).encode("xyz")) == 3


def test_user_defined_tokens_are_whole_but_visible() -> None:
    tokenizer = Tokenizer.from_gguf(gguf_metadata(pre="smollm"))
    ids = tokenizer.encode("t<tool></s>")
    assert ids.tolist()[1:] == [2, 1]
    assert tokenizer.decode(ids) == "t<tool>"


def test_end_of_turn_tokens_end_an_answer_too() -> None:
    assert Tokenizer.from_gguf(gguf_metadata(pre="smollm", eot_token_id=2)).eos_token_ids == {1, 2}


def test_a_tokenizer_file_equals_the_one_it_was_saved_from(smollm2: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    saved = tokenizers.Tokenizer.from_str(smollm2.tokenizer.backend.to_str())
    saved.enable_truncation(4)
    saved.enable_padding(length=8)
    saved.save(str(path))
    theirs = hf.PreTrainedTokenizerFast(tokenizer_file=str(path))
    theirs.backend_tokenizer.no_truncation()
    theirs.backend_tokenizer.no_padding()
    ours = Tokenizer.from_file(path, special_tokens={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    assert ours.bos_token_id == 1
    assert ours.eos_token_ids == {2}
    for text in TEXTS:
        check(ours, theirs, text)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"type": "Unknown"}}')
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.json"):
        Tokenizer.from_file(path)
