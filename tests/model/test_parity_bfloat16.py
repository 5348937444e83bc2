"""Row 6 of the parity table: in bfloat16 we err no more than transformers does."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .helpers import in_bfloat16, oracle, oracle_logits, ours, random_ids, report
from .pages import PagedModel


def test_row_6_teacher_forced(tmp_path: Path, record_property: Any) -> None:
    # Both dtypes start from the same bfloat16 weights, so that only the arithmetic differs.
    theirs = in_bfloat16(
        oracle(vocab_size=512, hidden_size=128, head_dim=32, num_hidden_layers=6), tmp_path / "a"
    )
    theirs.save_pretrained(tmp_path / "b")
    kind = type(theirs)
    exact = kind.from_pretrained(
        tmp_path / "b", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model = ours(theirs)
    assert model.dtype == torch.bfloat16
    prompts = [random_ids(n, vocab=512, seed=n) for n in (40, 90, 200, 300)]
    want = torch.cat([oracle_logits(exact, ids) for ids in prompts])
    their = torch.cat([oracle_logits(theirs, ids) for ids in prompts])
    prefill = model.logits(PagedModel(model).step(list(enumerate(prompts))))
    decode = torch.cat([model.logits(PagedModel(model).run(p, [1] * len(p))) for p in prompts[:2]])
    assert prefill.dtype == torch.bfloat16

    for way, got in (("prefill", prefill), ("token by token", decode)):
        reach = len(got)
        ratio = mean_error(got, want[:reach]) / mean_error(their[:reach], want[:reach])
        agreement = agreed(got, want[:reach])
        report(record_property, "row 6", f"our mean error / theirs, {way}", ratio)
        report(record_property, "row 6", f"argmax agreement where it is clear, {way}", agreement)
        assert ratio < 1.5
        assert agreement >= 0.98


def mean_error(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want).abs().mean())


def agreed(got: Tensor, want: Tensor) -> float:
    """Share of rows whose argmax is the oracle's, among those where its margin exceeds 0.25."""
    best = want.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.25
    assert clear.sum() > 50
    return float((got.argmax(-1) == want.argmax(-1))[clear].float().mean())
