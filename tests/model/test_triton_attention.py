"""The attention of our Triton programs: on a GPU, or interpreted (see test_triton_kernels.py)."""

import os
from typing import Any

import numpy as np
import pytest
import torch

from model.attention import TritonAttention
from model.attention.triton import CHUNK, NO_WINDOW, TILE_QUERIES, _parts
from model.errors import ParameterError
from model.kernels import triton

from .test_attention import CPU, Case

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter multiplies the bits of bfloat16 as integers; a GPU is not asked for float32.
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
ERROR = 0.02 if DEVICE.type == "cuda" else 1e-5
HEADS = (4, 2, 16)
MIXES = {
    "one token": [(1, 1)],
    "one prompt": [(9, 9)],
    "chunk with a past": [(5, 33)],
    "tile edges": [(TILE_QUERIES - 1, TILE_QUERIES), (TILE_QUERIES + 1, 90)],
    "decodes of many lengths": [(1, n) for n in (3, 90, 16, 17, 1)],
    "everything": [(1, 17), (30, 30), (1, 1), (2, 64), (1, 40), (17, 18)],
    "decodes in parts": [(1, CHUNK), (1, CHUNK + 1), (1, 2 * CHUNK + 300), (1, 2)],
    "parts and tiles": [(1, CHUNK + 88), (3, CHUNK + 5)],
}


@pytest.fixture(scope="module")
def backend() -> TritonAttention:
    pytest.importorskip("triton")
    if DEVICE.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs CUDA, or TRITON_INTERPRET=1 in the environment")
    return TritonAttention(DEVICE, DTYPE, HEADS[2])


def check(case: Case, backend: TritonAttention) -> None:
    """Slots that no query sees hold NaN: none is read."""
    got = case.run(backend, DEVICE).cpu().double()
    torch.testing.assert_close(got, case.want, rtol=ERROR, atol=ERROR)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 1, 6, 64, CHUNK])
def test_it_is_exact(backend: TritonAttention, mix: str, window: int | None) -> None:
    check(Case(MIXES[mix], window=window, page_size=16, heads=HEADS, dtype=DTYPE), backend)


@pytest.mark.parametrize("heads", [(1, 1, 16), (6, 2, 32), (8, 4, 64)])
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("page_size", [32, 128])
def test_other_heads_caps_and_pages(
    backend: TritonAttention, heads: tuple[int, int, int], softcap: float | None, page_size: int
) -> None:
    mix = [(1, CHUNK + 20), (20, 40), (1, 3)]
    settings: dict[str, Any] = {"heads": heads, "softcap": softcap, "page_size": page_size}
    check(Case(mix, scores=0.5, dtype=DTYPE, **settings), backend)


def test_a_decode_does_not_depend_on_its_batch(backend: TritonAttention) -> None:
    case = Case([(1, 700), (1, 90), (1, 1300)], page_size=16, heads=HEADS, dtype=DTYPE)
    together = case.run(backend, DEVICE)
    alone = []
    for s in range(3):
        batch, layout = case.batch, case.layout
        one = type(layout)(layout.slots[:1], layout.tables[s : s + 1], layout.first_key[s : s + 1])
        case.batch = type(batch)(
            batch.token_ids[:1],
            batch.positions[:1],
            np.ones(1, dtype=np.int64),
            batch.key_lens[s : s + 1],
            {"full_attention": one},
        )
        case.layout, q = one, case.q
        case.q = q[s : s + 1]
        alone.append(case.run(backend, DEVICE))
        case.batch, case.layout, case.q = batch, layout, q
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("longest", "window", "parts"),
    [(1, None, 1), (CHUNK, None, 1), (CHUNK + 1, None, 4), (2049, None, 16), (8192, 4096, 9)],
)
def test_decodes_have_few_numbers_of_parts(longest: int, window: int | None, parts: int) -> None:
    assert _parts(np.array([1, longest]), window or NO_WINDOW) == parts


def test_it_is_refused_where_it_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ParameterError, match=r"attention='triton': .* on CUDA, not on cpu"):
        TritonAttention(CPU, torch.bfloat16, 256)
    monkeypatch.setattr(triton, "why_not", lambda _: None)
    with pytest.raises(ParameterError, match="head_dim is 48, not a power of two"):
        TritonAttention(CPU, torch.bfloat16, 48)
    with pytest.raises(ParameterError, match=r"it computes bfloat16, not torch\.float32"):
        TritonAttention(torch.device("cuda"), torch.float32, 256)


def test_page_sizes_that_blocks_do_not_fit_are_refused(backend: TritonAttention) -> None:
    case: Any = Case([(1, 1)], page_size=24, heads=HEADS)
    with pytest.raises(ParameterError, match=r"page_size=24: .* power of two from 16 to 512"):
        case.plan(backend)
