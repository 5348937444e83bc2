"""Row 6 of the parity table: in bfloat16 we err no more than transformers does."""

from typing import Any

import pytest
import torch
from torch import Tensor

from .helpers import Pair, mean_error, oracle_logits, random_ids, report
from .ways import ROUNDED, Way, params_of


@pytest.mark.parametrize("way", params_of(ROUNDED), indirect=True)
def test_row_6_teacher_forced(way: Way, record_property: Any) -> None:
    pair = Pair(way, vocab_size=512, hidden_size=128, head_dim=32, num_hidden_layers=6)
    model = pair.model
    prompts = [random_ids(n, vocab=512, seed=n) for n in (40, 90, 200, 300)]
    want, their = (
        torch.cat([oracle_logits(reference, ids) for ids in prompts])
        for reference in (pair.exact, pair.rounded)
    )
    prefill = model.logits(pair.paged(num_pages=320).step(list(enumerate(prompts))))
    decode = torch.cat(
        [model.logits(pair.paged(num_pages=64).run(ids, [1] * len(ids))) for ids in prompts[:2]]
    )
    assert prefill.dtype == torch.bfloat16

    for feed, got in (("prefill", prefill), ("token by token", decode)):
        reach = len(got)
        ratio = mean_error(got, want[:reach]) / mean_error(their[:reach], want[:reach])
        agreement = agreed(got, want[:reach])
        how = f"{way}, {feed}"
        report(record_property, "row 6", f"our mean error / theirs, {how}", ratio)
        report(record_property, "row 6", f"argmax agreement where it is clear, {how}", agreement)
        assert ratio < 1.5
        assert agreement >= 0.98


def agreed(got: Tensor, want: Tensor) -> float:
    """Share of rows whose argmax is the oracle's, among those where its margin exceeds 0.25."""
    best = want.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.25
    assert clear.sum() > 50
    return float((got.argmax(-1) == want.argmax(-1))[clear].float().mean())
