"""The native attention kernel against the definition, with NaN in every slot it must not read."""

import pytest
import torch

from model.attention import NativeAttention, choose
from model.errors import ParameterError

from .native import needs_native
from .test_attention import CPU, MIXES, Case

KEYS, ROWS = 64, 128  # blocks of the kernel, in keys and in queries times heads

EDGES = {
    "blocks of keys": [(1, n) for n in (31, 32, 33, 63, 64, 65, 129)],
    "prompts about a block": [(n, n) for n in (KEYS - 1, KEYS, KEYS + 1, 2 * KEYS + 1)],
    "chunks about a run": [(n, n + 50) for n in (ROWS // 2 - 1, ROWS // 2, ROWS // 2 + 1, ROWS)],
    "branches": [(n, 80 + n) for n in (2, 3, 5, 7)],
}


def check(case: Case) -> None:
    got = case.run(NativeAttention(CPU, torch.bfloat16, case.q.shape[-1])).double()
    assert (got - case.want).norm() / case.want.norm() < 0.006
    torch.testing.assert_close(got, case.want, rtol=0.03, atol=0.03)


@needs_native
@pytest.mark.parametrize("mix", MIXES | EDGES)
@pytest.mark.parametrize("window", [None, 1, 6, 16, 64, 65, 1000])
def test_native(mix: str, window: int | None) -> None:
    lengths = (MIXES | EDGES)[mix]
    check(Case(lengths, window=window, heads=(4, 2, 64), page_size=16, dtype=torch.bfloat16))


@needs_native
@pytest.mark.parametrize("heads", [(1, 1, 32), (8, 4, 256), (6, 2, 96), (7, 1, 128), (16, 2, 64)])
@pytest.mark.parametrize("softcap", [None, 0.5, 50.0, 70.0])
@pytest.mark.parametrize("page_size", [1, 16, 24])
def test_native_with_other_heads_caps_and_pages(
    heads: tuple[int, int, int], softcap: float | None, page_size: int
) -> None:
    lengths = [(1, 17), (30, 30), (1, 1), (2, 64), (1, 140), (17, 118), (1, 65)]
    for window in (None, 20):
        check(
            Case(
                lengths,
                window=window,
                heads=heads,
                softcap=softcap,
                page_size=page_size,
                dtype=torch.bfloat16,
            )
        )


@needs_native
@pytest.mark.parametrize("softcap", [None, 50.0, 500.0])
def test_native_with_scores_far_apart(softcap: float | None) -> None:
    # Without a cap the largest score decides, wherever it comes, and nothing overflows.
    lengths = [(1, 200), (40, 200), (200, 200)]
    case = Case(lengths, heads=(4, 2, 64), softcap=softcap, dtype=torch.bfloat16, scores=40.0)
    check(case)


SHARED = {
    "decodes": ([(1, n) for n in (130, 131, 144, 145, 129, 160)], [(range(6), 8)]),
    "two prefixes": ([(1, 70 + n) for n in range(9)], [(range(4), 4), (range(4, 9), 3)]),
    "a tree": (
        [(1, 140 + n) for n in range(8)],
        [(range(8), 2), (range(4), 8), (range(4, 8), 6)],
    ),
    "branches": ([(1 + n % 3, 100 + n) for n in range(7)], [(range(7), 6)]),
    "beside others": (
        [(40, 140), (1, 90), (1, 120), (2, 120), (9, 120), (1, 97), (1, 1)],
        [((0, 2, 3, 4, 5), 5)],
    ),
    "more than fit at once": ([(1, 66 + n % 5) for n in range(90)], [(range(90), 4)]),
}


@needs_native
@pytest.mark.parametrize("mix", SHARED)
@pytest.mark.parametrize("window", [None, 16, 40, 100])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_native_with_prefixes_in_common(
    mix: str, window: int | None, softcap: float | None
) -> None:
    lengths, prefixes = SHARED[mix]
    check(
        Case(
            lengths,
            window=window,
            heads=(4, 2, 64),
            page_size=16,
            dtype=torch.bfloat16,
            softcap=softcap,
            prefixes=prefixes,
        )
    )


@needs_native
def test_a_head_size_without_a_kernel_is_refused_or_left_to_the_reference() -> None:
    assert choose("auto", CPU, torch.bfloat16, 48).name == "reference"
    assert choose("auto", CPU, torch.bfloat16, 64).name == "native"
    assert choose("auto", CPU, torch.float32, 64).name == "reference"
    with pytest.raises(ParameterError, match=r"attention='native': head_dim is 48, .* 'reference'"):
        choose("native", CPU, torch.bfloat16, 48)
    with pytest.raises(ParameterError, match=r"attention='native': .* bfloat16 on a CPU"):
        choose("native", CPU, torch.float32, 64)
