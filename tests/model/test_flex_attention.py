"""FlexAttention as written, on a CPU, and how often it would be compiled."""

import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model import attention
from model.attention import FlashAttention, FlexAttention, choose
from model.attention.flex import PAGES_MULTIPLE, TILE_ROWS, attend_tiles
from model.errors import ParameterError

from .test_attention import CPU, MIXES, Case

HEADS = (4, 2, 16)


def case_of(lengths: list[tuple[int, int]], **settings: Any) -> Case:
    """A case whose unattended slots are finite, as those of a cleared cache are."""
    case = Case(lengths, **{"heads": HEADS, **settings})
    case.k_pages.nan_to_num_(5.0)
    case.v_pages.nan_to_num_(5.0)
    return case


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 1, 6, TILE_ROWS, 1000])
def test_flex_is_exact(mix: str, window: int | None) -> None:
    case_of(MIXES[mix], window=window).check(FlexAttention(CPU, HEADS[2]))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("heads", [(1, 1, 16), (6, 1, 32), (8, 4, 128), (2, 1, 256)])
@pytest.mark.parametrize("softcap", [None, 0.5])
def test_flex_with_other_heads_and_caps(heads: tuple[int, int, int], softcap: float | None) -> None:
    case = case_of(MIXES["everything"], heads=heads, softcap=softcap, scores=0.5)
    case.check(FlexAttention(CPU, heads[2]))


def test_lists_hold_the_pages_that_a_tile_sees_and_no_other() -> None:
    window, rows, keys = 300, 2 * TILE_ROWS + 40, 1500
    case = case_of([(1, 900), (rows, keys)], window=window, page_size=128)
    decodes, longer = case.plan(FlexAttention(CPU, HEADS[2])).parts
    assert decodes.counts_b.tolist() == [4]  # keys 600 to 899: pages from 512, 640, 768 and 896
    assert longer.counts_b.tolist()[3:] == [0]
    first = keys - rows
    for tile in range(3):
        begin = first + tile * TILE_ROWS
        last = min(begin + TILE_ROWS, keys) - 1
        seen = range((begin - window + 1) // 128 * 128, last + 1, 128)
        assert longer.starts_bW[tile, : len(seen)].tolist() == list(seen)
        assert longer.counts_b[tile] == len(seen)
    table = case.layout.tables[0].tolist()
    assert decodes.pages_bW[0].tolist() == table + table[-1:] * (PAGES_MULTIPLE - len(table))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FlexAttention, list[int]]]:
    """The backend traced as for a GPU, each graph run as written, and a list of the graphs."""
    graphs: list[int] = []

    def keep(module: Any, _inputs: Any) -> Any:
        graphs.append(len(graphs))
        return module.forward

    backend = FlexAttention(CPU, HEADS[2])
    traced = torch.compile(attend_tiles, dynamic=False, fullgraph=True, backend=keep)
    monkeypatch.setattr(backend, "_attend", traced)
    yield backend, graphs
    torch.compiler.reset()


def test_steps_of_one_bucket_share_a_graph(
    compilations: tuple[FlexAttention, list[int]],
) -> None:
    backend, graphs = compilations

    def run(*lengths: tuple[int, int]) -> int:
        for window in (None, 200):  # both layer groups
            case = case_of(list(lengths), window=window, page_size=128)
            spare = 16 - len(case.k_pages)  # the cache has one size
            case.k_pages, case.v_pages = (
                torch.cat((pages, pages.new_zeros(spare, *pages.shape[1:])))
                for pages in (case.k_pages, case.v_pages)
            )
            case.check(backend)
        return len(graphs)

    assert run((1, 300), (1, 20), (1, 700)) == 1
    assert run((1, 130), (1, 20), (1, 70), (1, 1)) == 1
    assert run((1, 700), (130, 140)) == 3  # one decode; two tiles
    assert run((1, 500), (150, 340)) == 3


def test_flex_is_refused_where_it_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="power of two from 16 on, not 20"):
        choose("flex", CPU, torch.float32, head_dim=20)

    def compiler(*_args: Any, **_settings: Any) -> Any:
        raise RuntimeError("no Triton\nand more")

    monkeypatch.setattr(FlexAttention, "probe", compiler)
    cuda = torch.device("cuda")
    with pytest.raises(ParameterError, match=r"does not compile here \(no Triton\)"):
        choose("flex", cuda, torch.bfloat16)


def test_auto_prefers_flash_then_triton_then_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(FlexAttention, "probe", lambda *_: None)
    assert choose("auto", cuda, torch.bfloat16).name == "flex"
    ours = SimpleNamespace(name="triton", probe=lambda *_: None)
    monkeypatch.setattr(attention, "TritonAttention", lambda *_: ours)
    assert choose("auto", cuda, torch.bfloat16).name == "triton"
    flash = SimpleNamespace(flash_attn_varlen_func=None)
    monkeypatch.setattr(FlashAttention, "probe", lambda *_: None)
    monkeypatch.setattr(importlib, "import_module", lambda _: flash)
    assert choose("auto", cuda, torch.bfloat16).name == "flash"


@pytest.mark.gpu
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 16, TILE_ROWS])
def test_flex_is_the_reference(mix: str, window: int | None) -> None:
    device = torch.device("cuda")
    heads = (8, 4, 256)
    case = case_of(MIXES[mix], window=window, page_size=128, heads=heads, dtype=torch.bfloat16)
    flex = case.run(choose("flex", device, torch.bfloat16), device).cpu().double()
    torch.testing.assert_close(flex, case.want, rtol=0.02, atol=0.02)
