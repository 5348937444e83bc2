from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from model.detokenizer import StopChecker
from model.tokenizer import GemmaTokenizer

from .tokenizer_fixture import BOS, END_OF_TURN, FIRST_BYTE, write_tokenizer

VOCAB = 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, vocab_size=VOCAB)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> GemmaTokenizer:
    return GemmaTokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def library(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def spelled(text: bytes) -> list[int]:
    return [FIRST_BYTE + byte for byte in text]


any_id = (
    st.integers(0, VOCAB - 1)
    | st.integers(0, 256 + FIRST_BYTE)  # control tokens, newlines, HTML tags and bytes
    | st.integers(VOCAB, VOCAB + 9)  # rows of the model past the vocabulary
)
any_ids = st.lists(
    any_id.map(lambda token_id: [token_id])
    | st.text(max_size=3).map(lambda text: spelled(text.encode()))
    | st.binary(max_size=5).map(spelled),
).map(lambda runs: [token_id for run in runs for token_id in run])


class TestDetokenizer:
    @settings(deadline=None, max_examples=500)
    @given(ids=any_ids, skip_special=st.booleans())
    @example(ids=spelled("é".encode()) + spelled(b"\xff"), skip_special=True)
    @example(ids=[*spelled(b"\xc3"), END_OF_TURN, *spelled(b"\xa9")], skip_special=True)
    @example(ids=[*spelled(b"\xc3"), END_OF_TURN, *spelled(b"\xa9")], skip_special=False)
    @example(ids=[*spelled(b"\xc3"), VOCAB + 1, *spelled(b"\xa9")], skip_special=False)
    @example(ids=spelled(b"\xed\xa0\x80"), skip_special=True)  # a surrogate is no UTF-8
    def test_gives_what_a_whole_decode_gives(
        self, ids: list[int], skip_special: bool, tokenizer: GemmaTokenizer, library: Tokenizer
    ) -> None:
        expected = library.decode(ids, skip_special_tokens=skip_special)
        detokenizer = tokenizer.detokenizer(skip_special=skip_special)
        text = ""
        for token_id in ids:
            text += detokenizer.push(token_id)
            assert detokenizer.text == text
        assert text + detokenizer.flush() == expected
        assert detokenizer.text == expected

    def test_gives_text_at_once(self, tokenizer: GemmaTokenizer) -> None:
        ids = tokenizer.encode_text("def f(x):\n    return x")
        detokenizer = tokenizer.detokenizer()
        pushed = [detokenizer.push(token_id) for token_id in ids]
        assert pushed == [tokenizer.decode([token_id]) for token_id in ids]
        assert detokenizer.flush() == ""

    def test_never_gives_half_a_character(self, tokenizer: GemmaTokenizer) -> None:
        text = "a 👩‍👩‍👧 family, 𐌰𐌱𐌲."
        detokenizer = tokenizer.detokenizer()
        pieces = [detokenizer.push(token_id) for token_id in tokenizer.encode_text(text)]
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)

    def test_of_nothing_is_nothing(self, tokenizer: GemmaTokenizer) -> None:
        detokenizer = tokenizer.detokenizer()
        assert detokenizer.text == detokenizer.flush() == detokenizer.push(BOS) == ""


def naive(pieces: list[str], stops: list[str], first_armed: int) -> tuple[str, str | None]:
    """Search the whole text for the occurrence that ends first, of those the longest."""
    text = "".join(pieces)
    from_end = len("".join(pieces[:first_armed]))
    ends = [
        (place + len(stop), -len(stop), stop)
        for stop in stops
        for place in range(len(text))
        if text.startswith(stop, place) and place + len(stop) > from_end
    ]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


few_letters = st.text("ab\n", min_size=1, max_size=5)


class TestStopChecker:
    @settings(deadline=None, max_examples=1000)
    @given(
        pieces=st.lists(st.text("ab\n", max_size=6), max_size=8),
        stops=st.lists(few_letters, max_size=4),
        first_armed=st.integers(0, 3),
    )
    @example(pieces=["abc", "d"], stops=["abcd", "bc"], first_armed=0)
    @example(pieces=["abcd"], stops=["abcd", "bc"], first_armed=0)
    @example(pieces=["ab", "c"], stops=["ab", "abc"], first_armed=1)
    def test_finds_what_a_search_of_the_whole_text_finds(
        self, pieces: list[str], stops: list[str], first_armed: int
    ) -> None:
        expected_text, expected_stop = naive(pieces, stops, first_armed)
        checker = StopChecker(stops)
        text, stop = "", None
        for n, piece in enumerate(pieces):
            shown, stop = checker.push(piece, armed=n >= first_armed)
            text += shown
            if stop:
                break
        assert stop == expected_stop
        assert text + checker.flush() == expected_text

    @settings(deadline=None, max_examples=300)
    @given(text=st.text("ab\n", max_size=20), stops=st.lists(few_letters, min_size=1, max_size=4))
    def test_holds_back_no_more_than_it_must(self, text: str, stops: list[str]) -> None:
        checker = StopChecker(stops)
        shown, stop = checker.push(text)
        if stop is None:
            begins = [n for n in range(len(text)) if any(s.startswith(text[n:]) for s in stops)]
            assert shown == text[: min(begins, default=len(text))]

    def test_lets_everything_pass_without_stop_strings(self) -> None:
        checker = StopChecker([])
        assert checker.push("anything") == ("anything", None)
        assert checker.flush() == ""

    def test_finds_a_stop_string_over_many_tokens(self, tokenizer: GemmaTokenizer) -> None:
        detokenizer, checker = tokenizer.detokenizer(), StopChecker(["\n\nQ:", "🙂"])
        shown, stop = "", None
        for token_id in tokenizer.encode_text("A: yes\n \n\n\nQ: more"):
            text, stop = checker.push(detokenizer.push(token_id))
            shown += text
            if stop:
                break
        assert (shown, stop) == ("A: yes\n \n", "\n\nQ:")
