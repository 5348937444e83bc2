"""Each layer against transformers' own module, to the bit where the operations are the same."""

import pytest
import torch
from transformers import Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import (
    Gemma2MLP,
    Gemma2RMSNorm,
    Gemma2RotaryEmbedding,
    apply_rotary_pos_emb,
)

from model.heads import VocabParallelEmbedding
from model.kernels import PlainKernels
from model.kernels.plain import rotate
from model.layers import GatedMLP, RMSNorm, Rotary
from model.parallel import TensorParallel

from .helpers import oracle, ours

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_rounds_once_after_the_weight(dtype: torch.dtype) -> None:
    theirs = Gemma2RMSNorm(64, eps=1e-6).to(dtype)
    torch.nn.init.normal_(theirs.weight, std=0.3)
    norm = RMSNorm(64, 1e-6, dtype=dtype, device=CPU)
    norm.weight.copy_(theirs.weight)
    norm.prepare(PlainKernels())
    x = torch.randn(7, 64).to(dtype) * 30
    before = x.clone()
    assert torch.equal(norm(x), theirs(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("theta", [10000.0, 160000.0])
def test_rotary(dtype: torch.dtype, theta: float) -> None:
    config = Gemma2Config(
        head_dim=32, rope_parameters={"rope_type": "default", "rope_theta": theta}
    )
    # Far positions, and neighbours that bfloat16 frequencies would not tell apart.
    positions = torch.tensor([0, 1, 255, 256, 257, 4095, 8191])
    q, k = torch.randn(1, 4, 7, 32).to(dtype), torch.randn(1, 2, 7, 32).to(dtype)
    cos, sin = Gemma2RotaryEmbedding(config)(q, positions[None])
    want = torch.cat(apply_rotary_pos_emb(q, k, cos, sin), dim=1)

    angles = Rotary(32, theta, CPU).angles(positions, dtype)
    got = rotate(torch.cat((q, k), dim=1)[0].transpose(0, 1), *angles)
    assert angles[0].dtype == dtype
    assert torch.equal(got.transpose(0, 1), want[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_mlp(dtype: torch.dtype) -> None:
    config = Gemma2Config(hidden_size=32, intermediate_size=96)
    theirs = Gemma2MLP(config).to(dtype)  # type: ignore[no-untyped-call]
    mlp = GatedMLP(32, 96, TensorParallel.single(), dtype=dtype, device=CPU)
    state = {f"mlp.{name}": tensor for name, tensor in theirs.state_dict().items()}
    for shard in mlp.shards("mlp"):
        shard.target.copy_(state.pop(shard.name))
    assert not state
    mlp.prepare(PlainKernels())
    x = torch.randn(5, 32).to(dtype) * 3
    torch.testing.assert_close(
        mlp(x), theirs(x), rtol=1.6e-2 if dtype.itemsize == 2 else 1e-6, atol=1e-6
    )


def test_embedding_and_head_share_a_table() -> None:
    table = VocabParallelEmbedding(10, 4, TensorParallel.single(), dtype=torch.float32, device=CPU)
    weight = torch.randn(10, 4)
    table.weight.copy_(weight)
    table.prepare(PlainKernels())
    ids = torch.tensor([3, 0, 9, 3])
    assert torch.equal(table(ids), weight[ids])
    x = torch.randn(2, 4)
    torch.testing.assert_close(table.project(x), x @ weight.T)


@pytest.mark.parametrize(
    ("hidden_size", "dtype", "scale"),
    [(2304, torch.bfloat16, 48.0), (3584, torch.bfloat16, 59.75), (4608, torch.bfloat16, 68.0)],
)
def test_embedding_scale_is_rounded_to_the_dtype(
    hidden_size: int, dtype: torch.dtype, scale: float
) -> None:
    reference = oracle(hidden_size=hidden_size, num_hidden_layers=1, intermediate_size=8)
    model = ours(reference.to(dtype))
    assert model.embed_scale == scale
