"""Row 6 of the parity table: in bfloat16 we err no more than transformers does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import AttentionBackend, NativeAttention, ReferenceAttention
from model.kernels import Kernels, NativeKernels, PlainKernels

from .helpers import config_of, in_bfloat16, oracle, oracle_logits, random_ids, report
from .native import needs_native
from .pages import PagedModel, from_state_dict


def plain() -> tuple[Kernels, AttentionBackend]:
    return PlainKernels(), ReferenceAttention()


def native() -> tuple[Kernels, AttentionBackend]:
    return NativeKernels(), NativeAttention(torch.device("cpu"), torch.bfloat16, 32)


@pytest.mark.parametrize("make", [plain, pytest.param(native, marks=needs_native)])
def test_row_6_teacher_forced(make: Any, tmp_path: Path, record_property: Any) -> None:
    kernels, backend = make()
    # Both dtypes start from the same bfloat16 weights, so that only the arithmetic differs.
    theirs = in_bfloat16(
        oracle(vocab_size=512, hidden_size=128, head_dim=32, num_hidden_layers=6), tmp_path / "a"
    )
    theirs.save_pretrained(tmp_path / "b")
    kind = type(theirs)
    exact = kind.from_pretrained(
        tmp_path / "b", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model = from_state_dict(config_of(theirs), theirs.state_dict(), kernels=kernels)
    assert model.dtype == torch.bfloat16
    prompts = [random_ids(n, vocab=512, seed=n) for n in (40, 90, 200, 300)]
    want = torch.cat([oracle_logits(exact, ids) for ids in prompts])
    their = torch.cat([oracle_logits(theirs, ids) for ids in prompts])
    prefill = model.logits(PagedModel(model, backend=backend).step(list(enumerate(prompts))))
    decode = torch.cat(
        [
            model.logits(PagedModel(model, backend=backend).run(ids, [1] * len(ids)))
            for ids in prompts[:2]
        ]
    )
    assert prefill.dtype == torch.bfloat16

    for way, got in (("prefill", prefill), ("token by token", decode)):
        reach = len(got)
        ratio = mean_error(got, want[:reach]) / mean_error(their[:reach], want[:reach])
        agreement = agreed(got, want[:reach])
        how = f"{kernels.name}, {way}"
        report(record_property, "row 6", f"our mean error / theirs, {how}", ratio)
        report(record_property, "row 6", f"argmax agreement where it is clear, {how}", agreement)
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
