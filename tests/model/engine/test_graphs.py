"""Everything about graphs of decode steps but the capture: that needs a GPU."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from model.attention import FlashAttention, choose
from model.batch import PackedBatch
from model.engine.graphs import DecodeGraphs, Replay, bucket, pad
from model.engine.sequence import UNKNOWN
from model.gemma2 import Gemma2
from tests.model.helpers import oracle, ours, random_ids
from tests.model.pages import PagedModel

CPU = torch.device("cpu")
HEAD_DIM = 16


class ClearedPages(PagedModel):
    """Pages hold zeros where nothing was written, as a cache does whose pages are read whole."""

    def _poison(self, pages: Sequence[int]) -> None:
        for layer in range(self.model.config.num_hidden_layers):
            for tensor in self.cache.layer(layer):
                tensor[list(pages)] = 0.0


class Recorder:
    """Records by keeping the function; counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, body: Replay) -> Replay:
        self.count += 1
        return body


@pytest.fixture(scope="module")
def model() -> Gemma2:
    return ours(oracle(head_dim=HEAD_DIM, qk_scale=2.0))


@pytest.fixture(params=["flex", "triton"])
def paged(
    request: pytest.FixtureRequest, model: Gemma2, monkeypatch: pytest.MonkeyPatch
) -> PagedModel:
    if request.param == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1 in the environment, and Triton")
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    backend = choose(request.param, CPU, torch.float32, HEAD_DIM)
    return ClearedPages(model, num_pages=64, page_size=16, backend=backend)


def graphs_of(paged: PagedModel, recorder: Recorder) -> DecodeGraphs:
    return DecodeGraphs(paged.model, paged.cache, paged.free.pop(), paged.backend, recorder)


def forward(paged: PagedModel, batch: PackedBatch) -> Tensor:
    return paged.model(
        torch.from_numpy(batch.token_ids),
        torch.from_numpy(batch.positions),
        paged.cache,
        paged.model.plan(batch, paged.backend, paged.page_size),
        paged.backend,
    )


def test_replayed_steps_are_the_plain_ones(paged: PagedModel) -> None:
    recorder = Recorder()
    graphs = graphs_of(paged, recorder)
    for name, length in enumerate([3, 30, 7, 9, 1]):
        paged.run(random_ids(length, seed=name), name=name)
    kept = []
    # Three and four sequences share a bucket, and so do steps that have left the window (8) behind.
    for step, names in enumerate([(0, 1, 2), (0, 1, 2, 3), (2, 1), (4,), *[(0, 1, 3, 2)] * 6]):
        token = 5 + step
        batch = paged._batch([(name, [token + name]) for name in names])
        with torch.inference_mode():
            want = forward(paged, batch)
            # The host may not know the tokens: then they are on the device alone.
            known = batch if step % 2 else replace(batch, token_ids=np.full(len(names), UNKNOWN))
            got = graphs.run(known, torch.from_numpy(batch.token_ids))
        torch.testing.assert_close(got, want)
        kept.append((got, want))
    assert recorder.count == 3  # of four, of two and of one
    for got, want in kept:  # no later step has written to them
        torch.testing.assert_close(got, want)


def test_only_steps_of_nothing_but_decodes_are_taken(paged: PagedModel) -> None:
    graphs = graphs_of(paged, Recorder())
    assert graphs.takes(paged._batch([(0, [5]), (1, [6])]))
    assert not graphs.takes(paged._batch([(0, [5]), (2, [6, 7])]))


def test_a_capture_that_fails_is_the_last_one(
    paged: PagedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_body: Replay) -> Replay:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = DecodeGraphs(paged.model, paged.cache, paged.free.pop(), paged.backend, fail)
    batch = paged._batch([(0, [5])])
    with torch.inference_mode():
        got = graphs.run(batch, torch.from_numpy(batch.token_ids))
        torch.testing.assert_close(got, forward(paged, batch))
    assert not graphs.takes(batch)
    assert "decoding without CUDA graphs" in caplog.text


def test_steps_are_filled_up_to_a_power_of_two(paged: PagedModel) -> None:
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 255, 256, 257)] == [1, 2, 4, 4, 8, 256, 256, 512]
    batch = paged._batch([(0, [5]), (1, [6]), (2, [7])])
    padded = pad(batch, 4, spare_page=40, page_size=paged.page_size)
    assert padded.token_ids.tolist() == [5, 6, 7, 0]
    assert padded.key_lens.tolist() == [1, 1, 1, 1]
    for kind, layout in padded.groups.items():
        assert layout.slots.tolist() == [*batch.groups[kind].slots, 40 * paged.page_size]
        assert [table.tolist() for table in layout.tables[3:]] == [[40]]


def test_flash_plans_of_decodes_have_few_kinds(
    paged: PagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.import_module", lambda _: torch)
    monkeypatch.setattr(torch, "flash_attn_varlen_func", None, raising=False)
    backend = FlashAttention(torch.device("cuda"), torch.bfloat16, 16)
    batch = paged._batch([(0, [5]), (1, [6])])
    layout = batch.groups["full_attention"]
    keys = set()
    for longest in (600, 700, 1000, 1024, 1025):
        pages = tuple(np.arange(-(-n // 256)) for n in (longest, 2))
        decodes = PackedBatch(
            batch.token_ids,
            batch.positions,
            batch.query_lens,
            np.array([longest, 2]),
            {"full_attention": type(layout)(layout.slots, pages, np.zeros(2, dtype=np.int64))},
        )
        plan = backend.plan(decodes, decodes.groups["full_attention"], 256, 1010, CPU)
        keys.add(plan.key())
        assert plan.block_table.shape == (2, plan.max_seqlen_k // 256)
    assert keys == {(3, 1024, (-1, -1)), (3, 1024, (1009, 0)), (3, 2048, (1009, 0))}
