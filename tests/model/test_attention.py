"""Attention backends against a few lines of float64 that know nothing of pages or tiles."""

import importlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.attention import AttentionBackend, FlashAttention, ReferenceAttention, choose
from model.attention.reference import BUCKET_KEYS, PADDING, TILE_ROWS
from model.batch import GroupLayout, PackedBatch
from model.errors import ParameterError

CPU = torch.device("cpu")
SCALE = 0.2


class Case:
    """Sequences of (new tokens, all tokens) in pages, and what attention has to give for them.

    Slots that no query may read hold NaN; a sliding group's pages before the window don't exist.
    Of `prefixes` each says which sequences have their first pages, so many of them, in common.
    """

    def __init__(
        self,
        lengths: list[tuple[int, int]],
        *,
        window: int | None = None,
        page_size: int = 4,
        heads: tuple[int, int, int] = (4, 2, 8),
        softcap: float | None = 5.0,
        dtype: torch.dtype = torch.float32,
        scores: float = 3.0,
        prefixes: Sequence[tuple[Sequence[int], int]] = (),
    ) -> None:
        self.window, self.page_size, self.softcap = window, page_size, softcap
        query_heads, kv_heads, size = heads
        generator = torch.Generator().manual_seed(len(lengths))
        self.q = torch.randn(sum(n for n, _ in lengths), query_heads, size, generator=generator)
        self.q = self.q.mul_(scores).to(dtype)
        live = [0 if window is None else max(k - q - window + 1, 0) for q, k in lengths]
        first_key = [start // page_size * page_size for start in live]
        counts = [
            -(-(k - first) // page_size) for (_, k), first in zip(lengths, first_key, strict=True)
        ]
        order = np.random.default_rng(0).permutation(sum(counts) + 2)
        tables = np.split(order, np.cumsum(counts))[: len(counts)]
        shape = (len(order), page_size, kv_heads, size)
        self.k_pages = torch.full(shape, torch.nan, dtype=dtype)
        self.v_pages = torch.full(shape, torch.nan, dtype=dtype)
        self.want = torch.empty(self.q.shape, dtype=torch.float64)
        keys_values = [
            [torch.randn(total, kv_heads, size, generator=generator).to(dtype) for _ in "kv"]
            for _, total in lengths
        ]
        for members, pages in prefixes:
            # The one whose window begins first has all pages that any other has.
            origin = min(members, key=lambda member: first_key[member])
            for member in members:
                for own, common in zip(keys_values[member], keys_values[origin], strict=True):
                    own[: pages * page_size] = common[: pages * page_size]
                dropped = first_key[member] // page_size
                ahead = dropped - first_key[origin] // page_size
                left = max(0, pages - dropped)
                tables[member][:left] = tables[origin][ahead : ahead + left]
        row = 0
        for (n, total), start, first, table, (k, v) in zip(
            lengths, live, first_key, tables, keys_values, strict=True
        ):
            for position in range(start, total):
                page, offset = divmod(position - first, page_size)
                self.k_pages[table[page], offset] = k[position]
                self.v_pages[table[page], offset] = v[position]
            self.want[row : row + n] = plain(self.q[row : row + n], k, v, window, softcap)
            row += n
        layout = GroupLayout(np.zeros(row, dtype=np.int64), tuple(tables), np.array(first_key))
        queries, keys = np.array(lengths).T
        zeros = np.zeros(row, dtype=np.int64)
        self.batch = PackedBatch(zeros, zeros, queries, keys, {"full_attention": layout})
        self.layout = layout

    def plan(self, backend: AttentionBackend, device: torch.device = CPU) -> Any:
        return backend.plan(self.batch, self.layout, self.page_size, self.window, device)

    def run(self, backend: AttentionBackend, device: torch.device = CPU) -> Tensor:
        q, k, v = (x.to(device) for x in (self.q, self.k_pages, self.v_pages))
        plan = self.plan(backend, device)
        return backend.attend(q, k, v, plan, scale=SCALE, softcap=self.softcap)

    def check(self, backend: AttentionBackend) -> None:
        torch.testing.assert_close(self.run(backend).double(), self.want, rtol=1e-5, atol=1e-5)


def plain(q: Tensor, k: Tensor, v: Tensor, window: int | None, softcap: float | None) -> Tensor:
    """Attend as the definition says, head by head in float64; q are the last rows of k."""
    per_kv = q.shape[1] // k.shape[1]
    position = torch.arange(k.shape[0])
    distance = position[-q.shape[0] :, None] - position
    hidden = (distance < 0) | (distance >= (window or k.shape[0]))
    outs = []
    for head in range(q.shape[1]):
        scores = q[:, head].double() @ k[:, head // per_kv].double().T * SCALE
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        outs.append(weights @ v[:, head // per_kv].double())
    return torch.stack(outs, dim=1)


MIXES = {
    "one token": [(1, 1)],
    "one prompt": [(9, 9)],
    "one decode": [(1, 30)],
    "chunk with a past": [(5, 33)],
    "tile edges": [(TILE_ROWS - 1, TILE_ROWS), (TILE_ROWS, TILE_ROWS), (TILE_ROWS + 1, 150)],
    "several tiles": [(2 * TILE_ROWS + 7, 2 * TILE_ROWS + 40)],
    "decodes of many lengths": [(1, n) for n in (3, 90, 4, 5, 61, 60, 1, 88, 12)],
    "everything": [(1, 17), (30, 30), (1, 1), (2, 64), (1, 40), (17, 18)],
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 1, 6, 16, TILE_ROWS, 1000])
def test_reference(mix: str, window: int | None) -> None:
    Case(MIXES[mix], window=window).check(ReferenceAttention())


@pytest.mark.parametrize("heads", [(1, 1, 2), (4, 4, 8), (6, 1, 10), (6, 3, 4)])
@pytest.mark.parametrize("softcap", [None, 0.5, 50.0])
def test_reference_with_other_heads_and_caps(
    heads: tuple[int, int, int], softcap: float | None
) -> None:
    Case(MIXES["everything"], window=7, heads=heads, softcap=softcap).check(ReferenceAttention())


@pytest.mark.parametrize("page_size", [1, 3, 16, 256])
@pytest.mark.parametrize("window", [None, 20])
def test_reference_with_other_page_sizes(page_size: int, window: int | None) -> None:
    Case(MIXES["everything"], window=window, page_size=page_size).check(ReferenceAttention())


def test_reference_in_bfloat16() -> None:
    case = Case(MIXES["everything"], window=20, dtype=torch.bfloat16)
    got = case.run(ReferenceAttention())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), case.want, rtol=0.05, atol=0.05)


def test_buckets_of_decodes_hold_every_sequence_once_with_little_padding() -> None:
    lengths = np.random.default_rng(1).integers(1, 400, 200)
    case = Case([(1, 1)] * 200)
    batch = PackedBatch(
        case.batch.token_ids,
        case.batch.positions,
        case.batch.query_lens,
        lengths,
        case.batch.groups,
    )
    tables = tuple(np.zeros(-(-n // 4), dtype=np.int64) for n in lengths)
    layout = GroupLayout(case.layout.slots, tables, case.layout.first_key)
    plan = ReferenceAttention().plan(batch, layout, 4, None, CPU)
    rows = torch.cat([bucket.rows for bucket in plan.buckets])
    assert sorted(rows.tolist()) == list(range(200))
    assert not plan.chunks
    for bucket in plan.buckets:
        padding = bucket.padding.flatten(1)
        assert torch.equal((~padding).sum(-1), torch.from_numpy(lengths)[bucket.rows])
        assert padding.numel() <= PADDING * int((~padding).sum())
        assert padding.numel() <= BUCKET_KEYS or len(bucket.rows) == 1
    assert len(plan.buckets) < 2 * lengths.sum() / BUCKET_KEYS


def test_tiles_take_only_the_keys_that_they_see() -> None:
    window = 50
    rows = 4 * TILE_ROWS
    plan = Case([(rows, 3 * rows)], window=window).plan(ReferenceAttention())
    (chunk,) = plan.chunks
    assert chunk.slots.shape == (1, rows + window - 1)
    assert [tile.rows.start for tile in chunk.tiles] == list(range(0, rows, TILE_ROWS))
    for tile in chunk.tiles:
        assert tile.keys.stop - tile.keys.start == TILE_ROWS + window - 1


def test_choose_takes_the_reference_where_there_is_no_cuda() -> None:
    for name in ("auto", "reference"):
        assert choose(name, CPU, torch.float32).name == "reference"


def test_flash_is_refused_where_it_can_not_run() -> None:
    with pytest.raises(ParameterError, match="needs a CUDA device"):
        choose("flash", CPU, torch.bfloat16)
    cuda = torch.device("cuda")
    with pytest.raises(ParameterError, match="needs dtype 'bfloat16'"):
        choose("flash", cuda, torch.float32)
    with pytest.raises(ParameterError, match="multiple of 8 up to 256, not 20"):
        choose("flash", cuda, torch.bfloat16, head_dim=20)


def test_a_missing_flash_attn_is_reported_when_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.import_module

    def no_module(name: str) -> Any:
        if name.startswith("flash_attn"):
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", no_module)
    cuda = torch.device("cuda")
    with pytest.raises(ParameterError, match=r"No module named 'flash_attn'.*gemmaray\[flash\]"):
        choose("flash", cuda, torch.bfloat16)
    assert choose("auto", cuda, torch.bfloat16).name == "reference"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[FlashAttention, dict[str, Any]]:
    """The flash backend over a kernel that only keeps its arguments."""
    calls: dict[str, Any] = {}

    def kernel(q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
        calls.update(arguments, q=q, k=k, v=v)
        return q

    module = SimpleNamespace(flash_attn_varlen_func=kernel)
    monkeypatch.setattr(importlib, "import_module", lambda _: module)
    return FlashAttention(torch.device("cuda"), torch.bfloat16, 8), calls


def test_flash_arguments(recorded: tuple[FlashAttention, dict[str, Any]]) -> None:
    backend, calls = recorded
    case = Case([(2, 300), (1, 1000)], window=300, page_size=256)
    case.run(backend)
    # The second sequence's window begins at 700: its first page holds positions 512 to 767.
    assert case.layout.first_key.tolist() == [0, 512]
    assert calls["cu_seqlens_q"].tolist() == [0, 2, 3]
    assert calls["cu_seqlens_k"].tolist() == [0, 300, 788]
    assert calls["cu_seqlens_k"].dtype == calls["block_table"].dtype == torch.int32
    assert (calls["max_seqlen_q"], calls["max_seqlen_k"]) == (2, 488)
    tables = [table.tolist() for table in case.layout.tables]
    assert calls["block_table"].tolist() == tables
    assert calls["window_size"] == (299, 0)
    assert calls["causal"] is True
    assert (calls["softcap"], calls["softmax_scale"]) == (5.0, SCALE)


@pytest.mark.parametrize(
    ("lengths", "window", "expected"),
    [
        ([(3, 300)], None, (-1, -1)),
        ([(3, 300), (1, 20)], 300, (-1, -1)),
        ([(3, 301), (1, 20)], 300, (299, 0)),
        ([(3, 3)], 1, (0, 0)),
    ],
)
def test_flash_has_a_window_only_when_someone_outgrows_it(
    recorded: tuple[FlashAttention, dict[str, Any]],
    lengths: list[tuple[int, int]],
    window: int | None,
    expected: tuple[int, int],
) -> None:
    plan = Case(lengths, window=window, page_size=256).plan(recorded[0])
    assert plan.window_size == expected


def test_flash_refuses_other_page_sizes(
    recorded: tuple[FlashAttention, dict[str, Any]],
) -> None:
    with pytest.raises(ParameterError, match=r"page_size=16: .* multiple of 256"):
        Case([(1, 1)], page_size=16).plan(recorded[0])


@pytest.mark.gpu
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 16, TILE_ROWS])
def test_flash_is_the_reference(mix: str, window: int | None) -> None:
    pytest.importorskip("flash_attn")
    device = torch.device("cuda")
    case = Case(MIXES[mix], window=window, page_size=256, heads=(8, 4, 256), dtype=torch.bfloat16)
    # Flash reads whole pages, masked afterwards: what is not there must at least be finite.
    case.k_pages.nan_to_num_()
    case.v_pages.nan_to_num_()
    flash = case.run(choose("flash", device, torch.bfloat16), device).cpu().double()
    torch.testing.assert_close(flash, case.want, rtol=0.02, atol=0.02)
    reference = case.run(ReferenceAttention(), device).cpu().double()
    torch.testing.assert_close(reference, case.want, rtol=0.05, atol=0.05)
