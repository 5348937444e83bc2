"""Masks held to brute force: every token of the vocabulary is tried with another library."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from model import SamplingParams
from model.constrain import Constraints, Guide
from model.tokenizer import GemmaTokenizer, load_tokenizer
from tests.model.tokenizer_fixture import END_OF_TURN, EOS, write_tokenizer

VOCAB = 2048
Leads = Callable[[bytes], bool]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> GemmaTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, vocab_size=VOCAB)
    loaded = load_tokenizer(folder)
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def constraints(tokenizer: GemmaTokenizer) -> Iterator[Constraints]:
    made = Constraints(tokenizer, VOCAB, (EOS, END_OF_TURN))
    yield made
    made.close()


def guide_of(constraints: Constraints, **asked: Any) -> Guide:
    (guide,) = constraints.guides(SamplingParams(**asked), 1)
    guide.compiled.result()
    return guide


def allowed(constraints: Constraints, guide: Guide) -> list[int]:
    masks = constraints.start([guide])
    masks.wait()
    assert guide.fault is None
    (row,) = masks.rows_GB
    found: list[int] = np.flatnonzero(np.unpackbits(row, bitorder="little")).tolist()
    return found


def walk(
    constraints: Constraints,
    tokenizer: GemmaTokenizer,
    guide: Guide,
    leads: Leads,
    whole: Leads,
    rng: random.Random,
) -> None:
    """Write a text token by token, each drawn from the mask, which is looked at in full."""
    written, text = tokenizer.token_bytes(VOCAB), b""
    for _ in range(12):
        expected = [n for n, piece in enumerate(written) if piece and leads(text + piece)]
        if whole(text):
            expected += [EOS, END_OF_TURN]
        found = allowed(constraints, guide)
        assert found == sorted(expected), text
        token = rng.choice(found)
        if token in {EOS, END_OF_TURN}:
            return
        guide.accept(token)
        text += written[token]


PATTERNS = [
    r"[a-z]{3,10} \d+",
    r"(yes|no|maybe)( [a-z ]+)?",
    r"(ab|a)*b?",
    r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?",
    r"[^\n]{1,30}\n",
    r"(\w+@\w+\.(com|org))|(https?://[a-z/.]+)",
    r"a{2,4}(b|cd){3}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_masks_of_an_expression(
    constraints: Constraints, tokenizer: GemmaTokenizer, pattern: str
) -> None:
    # Over bytes, where these classes are ASCII; as text they hold much more.
    plain = pattern.replace(r"\w", "[A-Za-z0-9_]").replace(r"\d", "[0-9]")
    plain = plain.replace(r"[^\n]", r"[\x00-\x09\x0b-\x7f]")
    compiled = regex.compile(plain.encode())

    def leads(text: bytes) -> bool:
        return compiled.fullmatch(text, partial=True) is not None

    def whole(text: bytes) -> bool:
        return compiled.fullmatch(text) is not None

    for seed in range(3):
        guide = guide_of(constraints, regex=plain)
        walk(constraints, tokenizer, guide, leads, whole, random.Random(seed))


CHOICES = [
    ("yes", "no"),
    ("a", "ab", "abc", "b"),
    ('"quoted"', "back\\slash", "new\nline", "tab\t", "a/b", "<end_of_turn>", "é€😀", " space "),
    ("libs", "libdevel", "lib", "net | mail", "/x/ ]", "%json {}"),
]


def check_choices(
    constraints: Constraints, tokenizer: GemmaTokenizer, choices: tuple[str, ...], seed: int
) -> None:
    encoded = [choice.encode() for choice in choices]
    guide = guide_of(constraints, choice=choices)
    walk(
        constraints,
        tokenizer,
        guide,
        lambda text: any(choice.startswith(text) for choice in encoded),
        lambda text: text in encoded,
        random.Random(seed),
    )


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("seed", range(3))
def test_masks_of_choices(
    constraints: Constraints, tokenizer: GemmaTokenizer, choices: tuple[str, ...], seed: int
) -> None:
    check_choices(constraints, tokenizer, choices, seed)


any_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)


@settings(max_examples=40, deadline=None)
@given(choices=st.lists(any_text, min_size=1, max_size=6, unique=True), seed=st.integers(0, 99))
def test_masks_of_any_choices(
    constraints: Constraints, tokenizer: GemmaTokenizer, choices: list[str], seed: int
) -> None:
    check_choices(constraints, tokenizer, tuple(choices), seed)


def test_answers_of_one_request_go_their_own_ways(
    constraints: Constraints, tokenizer: GemmaTokenizer
) -> None:
    one, other = constraints.guides(SamplingParams(choice=["ab", "xy"]), 2)
    one.compiled.result()
    assert len(allowed(constraints, one)) == len(allowed(constraints, other))
    one.accept(tokenizer.encode_continuation("a")[0])
    other.accept(tokenizer.encode_continuation("x")[0])
    masks = constraints.start([one, other])
    masks.wait()
    bits = np.unpackbits(masks.rows_GB, axis=1, bitorder="little")
    assert not (bits[0] & bits[1]).any()
    assert bits.any(axis=1).all()


def test_the_text_may_end_late_but_not_when_it_must(constraints: Constraints) -> None:
    early = guide_of(constraints, regex="(a|b)*", min_tokens=1)
    first = allowed(constraints, early)
    assert EOS not in first
    early.accept(first[0])
    assert EOS in allowed(constraints, early)
    forced = guide_of(constraints, regex="~", min_tokens=9)
    forced.accept(allowed(constraints, forced)[0])
    assert allowed(constraints, forced) == [EOS, END_OF_TURN]


def test_stop_tokens_end_the_text_where_it_may_end(
    constraints: Constraints, tokenizer: GemmaTokenizer
) -> None:
    control = next(iter(tokenizer.control_ids - {EOS, END_OF_TURN}))
    guide = guide_of(constraints, regex="~", stop_token_ids=(control,))
    first = allowed(constraints, guide)
    assert control not in first
    guide.accept(first[0])
    assert allowed(constraints, guide) == sorted([EOS, END_OF_TURN, control])


def test_equal_constraints_are_compiled_once(constraints: Constraints) -> None:
    one, other = guide_of(constraints, regex="once"), guide_of(constraints, regex="once")
    assert one.compiled is other.compiled
    assert guide_of(constraints, regex="twice").compiled is not one.compiled
