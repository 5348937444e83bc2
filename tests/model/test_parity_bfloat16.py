"""Row 6 of the parity table: in bfloat16 we err no more than transformers does."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from .helpers import Pair, flat_logits, random_ids, report
from .ways import ROUNDED, ROUNDED_FLEX, Way, params_of


@pytest.mark.parametrize("way", params_of([*ROUNDED, ROUNDED_FLEX]), indirect=True)
def test_row_6_teacher_forced(way: Way, record_property: Any) -> None:
    pair = Pair(way, vocab_size=512, hidden_size=128, head_dim=32, num_hidden_layers=6)
    model = pair.model
    prompts = [random_ids(n, vocab=512, seed=n) for n in (40, 90, 200, 300)]
    beginnings = [ids[:40] for ids in prompts]
    prefill = model.logits(pair.paged(num_pages=320).step(list(enumerate(prompts))))
    decode = model.logits(pair.paged(num_pages=80).feed(beginnings, [1] * 40)[-1])
    assert prefill.dtype == torch.bfloat16

    for feed, texts, got in (
        ("prefill", prompts, prefill),
        ("token by token", beginnings, decode),
    ):
        what = f"row 6, teacher-forced, {feed}"
        pair.check(record_property, what, got, partial(flat_logits, texts=texts))
        agreement = agreed(got, flat_logits(pair.exact, texts))
        report(record_property, "row 6", f"argmax agreement where it is clear, {way}", agreement)
        assert agreement >= 0.98


def agreed(got: Tensor, want: Tensor) -> float:
    """Share of rows whose argmax is the oracle's, among those where its margin exceeds 0.25."""
    best = want.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.25
    assert clear.sum() > 50
    return float((got.argmax(-1) == want.argmax(-1))[clear].float().mean())
