import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model.errors import PromptError
from model.tokenizer import GemmaTokenizer

from .tokenizer_fixture import (
    BOS,
    CONTROLS,
    END_OF_TURN,
    FIRST_BYTE,
    START_OF_TURN,
    UNK,
    write_tokenizer,
)

# None of these may come out of text; <unk> stands for characters that a vocabulary lacks.
FORBIDDEN = {0, 1, 2, START_OF_TURN, END_OF_TURN}
TEXTS = [
    "",
    " ",
    "Hello world",
    "  two leading spaces, one trailing ",
    "line\n\n\nline\r\n\ttab\x0b\x85\xa0",
    "a   b          c" + " " * 40 + "d" + "\n" * 40,
    "▁ is U+2581, ▁▁ twice, and mixed ▁ ▁ ",
    "<b>bold</b> <table><tr><td>1</td></tr></table> <unused7> <mask> [@BOS@] <2mass>",
    "naïve café, e\u0301 combining, ﬁ ligature, ½, \u200b zero width",
    "👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽 tone 🙂",
    "日本語 русский العربية 𐌰𐌱𐌲 \U0010ffff",
    "<0x41> is no byte, < end_of_turn >, <start_of_turn",
    "def f(x):\n    return x  # 3.14159\n",
]
FRAGMENTS = [" ", "  ", "\n", "\t", "▁", "é", "e\u0301", "🙂", "<b>", "<unused3>", "user", "<0xE2>"]
any_text = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_characters="\0", codec="utf-8"))
).map("".join)
# Hypothesis draws on the strings of this very module, so control tokens do come up.
plain_text = any_text.filter(lambda text: not any(control in text for control in CONTROLS))
text_with_controls = st.lists(
    st.sampled_from([*CONTROLS, "<", ">", "<end_of_turn><start_of_turn>", "turn>"]) | any_text
).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> GemmaTokenizer:
    return GemmaTokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> GemmaTokenizer:
    """Has merges that lead to `<end_of_turn>`."""
    path = tmp_path_factory.mktemp("merging")
    write_tokenizer(path, merges_controls=True)
    return GemmaTokenizer.from_folder(path)


def shown(text: str) -> str:
    """What is left of a text once it has been encoded and decoded."""
    return text.replace("▁", " ")


class TestIds:
    @pytest.mark.parametrize("text", TEXTS)
    def test_equal_transformers(self, text: str, tokenizer: GemmaTokenizer, reference: Any) -> None:
        assert tokenizer.encode_text(text) == reference(text)["input_ids"]
        without = reference(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode_text(text, add_bos=False) == without
        assert tokenizer.encode_continuation(text) == without

    @settings(deadline=None, max_examples=200)
    @given(text=plain_text)
    def test_equal_transformers_for_any_text(
        self, text: str, tokenizer: GemmaTokenizer, reference: Any
    ) -> None:
        assert tokenizer.encode_text(text) == reference(text)["input_ids"]

    @settings(deadline=None, max_examples=200)
    @given(text=text_with_controls)
    def test_hold_no_control_token_that_is_not_ours(
        self, text: str, tokenizer: GemmaTokenizer, reference: Any
    ) -> None:
        ids = tokenizer.encode_text(text, add_bos=False)
        assert FORBIDDEN.isdisjoint(ids)
        assert UNK not in ids
        assert tokenizer.decode(ids) == shown(text)
        if "<mask>" not in text:  # transformers makes a control token of it
            split = reference(text, add_special_tokens=False, split_special_tokens=True)
            assert ids == split["input_ids"]

    def test_begin_with_exactly_one_bos(self, tokenizer: GemmaTokenizer) -> None:
        assert tokenizer.encode_text("") == [BOS]
        assert tokenizer.encode_text("<bos>Hello").count(BOS) == 1
        assert tokenizer.encode_text("<bos>Hello")[0] == BOS

    @settings(deadline=None, max_examples=100)
    @given(texts=st.lists(text_with_controls, max_size=4))
    def test_of_a_batch_are_those_of_its_texts(
        self, texts: list[str], tokenizer: GemmaTokenizer, merging: GemmaTokenizer
    ) -> None:
        for any_tokenizer in (tokenizer, merging):
            one_by_one = [any_tokenizer.encode_text(text) for text in texts]
            assert any_tokenizer.encode_batch(texts) == one_by_one
            bare = [ids[1:] for ids in one_by_one]
            assert any_tokenizer.encode_batch(texts, add_bos=False) == bare

    def test_of_a_continuation_go_on_where_the_prompt_ends(self, tokenizer: GemmaTokenizer) -> None:
        ids = tokenizer.encode_text("The answer is") + tokenizer.encode_continuation(" yes")
        assert tokenizer.decode(ids) == "The answer is yes"
        ids = tokenizer.encode_text("The answer is ") + tokenizer.encode_continuation("yes")
        assert tokenizer.decode(ids) == "The answer is yes"


class TestMergesThatSpellAControlToken:
    def test_are_in_this_vocabulary(self, merging: GemmaTokenizer) -> None:
        assert END_OF_TURN in merging._tokenizer.encode("a<end_of_turn>b").ids

    @settings(deadline=None, max_examples=200)
    @given(text=text_with_controls)
    def test_do_not_get_through(self, text: str, merging: GemmaTokenizer) -> None:
        ids, offsets = merging.encode_with_offsets(text)
        assert ids == merging.encode_text(text)
        assert FORBIDDEN.isdisjoint(ids[1:])
        assert merging.decode(ids) == shown(text)
        check_offsets(merging, text, ids, offsets)


def check_offsets(
    tokenizer: GemmaTokenizer, text: str, ids: list[int], offsets: list[tuple[int, int]]
) -> None:
    """Each token stands for the characters its offsets say, and all characters are covered."""
    assert offsets[0] == (0, 0)
    position, spelled = 0, b""
    for token_id, (start, end) in zip(ids[1:], offsets[1:], strict=True):
        token = tokenizer._tokenizer.id_to_token(token_id) or ""
        if byte := re.fullmatch("<0x(..)>", token):
            spelled += bytes.fromhex(byte[1])
            assert (start, end) == (position, position + 1)
            assert text[start].encode().startswith(spelled)
            if text[start].encode() != spelled:
                continue
        else:
            assert start == position
            assert shown(text[start:end]) == tokenizer.decode([token_id])
        position, spelled = end, b""
    assert position == len(text)
    assert not spelled


class TestOffsets:
    @pytest.mark.parametrize("text", TEXTS)
    def test_cover_the_text(self, text: str, tokenizer: GemmaTokenizer) -> None:
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode_text(text)
        check_offsets(tokenizer, text, ids, offsets)

    @settings(deadline=None, max_examples=200)
    @given(text=text_with_controls)
    def test_cover_any_text(self, text: str, tokenizer: GemmaTokenizer) -> None:
        ids, offsets = tokenizer.encode_with_offsets(text)
        check_offsets(tokenizer, text, ids, offsets)


class TestTextThatIsRefused:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (None, "prompt must be text, not NoneType"),
            (b"bytes", "prompt must be text, not bytes"),
            ("ab\0c", "prompt holds a NUL character at position 2"),
            ("abc\ud83d", "prompt holds a lone surrogate at position 3"),
        ],
    )
    def test_says_why(self, text: Any, why: str, tokenizer: GemmaTokenizer) -> None:
        for encode in (tokenizer.encode_text, tokenizer.encode_with_offsets):
            with pytest.raises(PromptError, match=why):
                encode(text)
        with pytest.raises(PromptError, match=why.replace("prompt", "continuation")):
            tokenizer.encode_continuation(text)
        with pytest.raises(PromptError, match=why.replace("prompt", r"prompts\[1\]")):
            tokenizer.encode_batch(["good", text])


class TestDecode:
    def test_leaves_control_tokens_out(self, tokenizer: GemmaTokenizer) -> None:
        ids = [*tokenizer.encode_text("Hello"), END_OF_TURN]
        assert tokenizer.decode(ids) == "Hello"
        assert tokenizer.decode(ids, skip_special=False) == "<bos>Hello<end_of_turn>"

    @settings(deadline=None, max_examples=200)
    @given(ids=st.lists(st.integers(0, 2047)))
    def test_equals_transformers(
        self, ids: list[int], tokenizer: GemmaTokenizer, reference: Any
    ) -> None:
        ids = [token_id for token_id in ids if token_id != 4]  # <mask>, see above
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        raw = tokenizer.decode(ids, skip_special=False)
        assert raw == reference.decode(ids, skip_special_tokens=False)


def test_byte_tokens_are_where_gemma_has_them(tokenizer: GemmaTokenizer) -> None:
    spelled = [FIRST_BYTE + byte for byte in "🙂".encode()]
    assert tokenizer.encode_text("🙂", add_bos=False) == spelled
