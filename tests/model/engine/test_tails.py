"""The last layer computes only the rows that somebody wants, and nobody notices."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model import Embed, Generate, PromptLogprobs, SamplingParams
from model.batch import GroupLayout, PackedBatch
from model.block import AttentionPlan
from model.engine.states import States
from model.engine.step import StepPlan
from model.gemma2 import Gemma2
from tests.model.helpers import random_ids

from .conftest import MakeEngine
from .test_engine import run


class Sink:
    """Takes what it is given."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def __call__(self, value: Any) -> None:
        self.got.append(value)


@st.composite
def wishes(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    """Rows of each chunk, and for each chunk the first rows of slices that are wanted of it."""
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    rows = [draw(st.lists(st.integers(0, count - 1), max_size=3)) for count in counts]
    return counts, rows


@given(wishes())
def test_every_wanted_row_is_found_again(wish: tuple[list[int], list[list[int]]]) -> None:
    counts, wanted = wish
    plan, sinks, logit_rows = StepPlan(), [], []
    starts = (np.cumsum(counts) - counts).tolist()
    for start, count, rows in zip(starts, counts, wanted, strict=True):
        for row in rows:
            sinks.append((start + row, start + count, Sink()))
            plan.hidden_sum(start + row, count - row, sinks[-1][2])
            plan.logprobs(start + row, [7], Sink())
            logit_rows.append(start + row)
    tails = plan.keep_tails(counts)
    hidden = torch.arange(1, sum(counts) + 1)[:, None]
    expected = [
        count - min(rows, default=count) for count, rows in zip(counts, wanted, strict=True)
    ]
    if tails is None:
        assert expected == counts
    else:
        assert tails.tolist() == expected
        hidden = hidden[torch.from_numpy(batch(counts, tails).tail_rows)]
    plan.send(States(hidden, {}), lambda rows: rows)
    assert plan.settle(None) == 0
    for first, stop, sink in sinks:
        assert [value.tolist() for value in sink.got] == [[sum(range(first + 1, stop + 1))]]
    rows = hidden.flatten()[plan.logit_rows] - 1
    assert rows.tolist() == list(dict.fromkeys(logit_rows))


def batch(counts: list[int], tails: np.ndarray[Any, Any]) -> PackedBatch:
    zeros, lens = np.zeros(sum(counts), dtype=np.int64), np.array(counts)
    layout = GroupLayout(zeros, tuple(lens[:, None]), zeros[: len(counts)])
    return PackedBatch(zeros, zeros, lens, lens + 1, {"full_attention": layout}, tails)


def test_the_tails_are_a_batch_of_those_that_have_one() -> None:
    tails = batch([3, 4, 2, 1], np.array([1, 0, 2, 1])).tails("full_attention")
    assert tails.query_lens.tolist() == [1, 2, 1]
    assert tails.key_lens.tolist() == [4, 3, 2]
    assert [table.tolist() for table in tails.groups["full_attention"].tables] == [[3], [2], [1]]


@pytest.fixture
def last_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that came out of each step's last layer."""
    seen: list[int] = []
    forward = Gemma2.forward

    def counted(self: Gemma2, *args: Any, **kwargs: Any) -> Tensor:
        out = forward(self, *args, **kwargs)
        assert isinstance(args[3], AttentionPlan)
        seen.append(len(out))
        return out

    monkeypatch.setattr(Gemma2, "forward", counted)
    return seen


def test_a_prompt_costs_the_last_layer_one_row(make: MakeEngine, last_rows: list[int]) -> None:
    engine = make(max_batch_tokens=32)
    engine.generate([random_ids(75)], SamplingParams(max_tokens=3, ignore_eos=True))
    # Two chunks whose values nobody wants, the rest of the prompt, and two tokens.
    assert last_rows == [0, 0, 1, 1, 1]


def test_who_wants_all_rows_is_given_them(make: MakeEngine, last_rows: list[int]) -> None:
    engine = make()
    engine.add_request(random_ids(9), [Embed("mean", normalize=True)], request_id="mean")
    engine.add_request(random_ids(7), [PromptLogprobs()], request_id="logprobs")
    engine.add_request(random_ids(5), [Generate(SamplingParams(max_tokens=1))], request_id="one")
    run(engine)
    assert last_rows == [9 + 7 + 1]


def test_classification_is_the_same_alone_and_among_others(make: MakeEngine) -> None:
    engine = make("classifier")
    prompts = [random_ids(n, seed=n) for n in (3, 40, 11)]
    together = engine.classify(prompts)
    for prompt, expected in zip(prompts, together, strict=True):
        (alone,) = engine.classify([prompt])
        assert alone.logits == pytest.approx(expected.logits, rel=1e-4, abs=1e-5)
