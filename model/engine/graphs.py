"""Decode steps as CUDA graphs: one launch instead of hundreds.

A decode of a few sequences keeps a GPU busy for less time than the CPU takes to launch its
kernels one by one. A captured graph launches them all at once, but always with the same shapes and
the same buffers: so steps are padded to a power of two of sequences, and each step's values are
copied into the buffers that the graph was captured with. The sequences that fill up are on a page
that nobody else uses. The head runs outside, on the rows that are asked for.
"""

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad as constant_pad

from model.attention import AttentionBackend
from model.attention.tables import next_power_of_two
from model.batch import GroupLayout, Ints, LayerKind, PackedBatch
from model.block import AttentionPlan, LayerGroupPlan
from model.gemma2 import Gemma2
from model.kv_cache import KVCache
from model.transfer import refill, to_device

Plans = Mapping[LayerKind, LayerGroupPlan]
Replay = Callable[[], Tensor]
CPU = torch.device("cpu")
WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A recorded step: its inputs' buffers, and what computes them anew, giving [bucket, D]."""

    token_ids: Tensor
    positions: Tensor
    plans: Plans
    replay: Replay


class DecodeGraphs:
    """The model's backbone on steps that are nothing but decodes.

    Args:
        model: of the only rank.
        cache: with a page more than the engine knows of.
        spare_page: that one.
        backend: which has static plans.
        record: from a function of no arguments to one that does the same again, later.
    """

    def __init__(
        self,
        model: Gemma2,
        cache: KVCache,
        spare_page: int,
        backend: AttentionBackend,
        record: Callable[[Replay], Replay],
    ) -> None:
        assert backend.has_static_plans
        self._model = model
        self._cache = cache
        self._spare_page = spare_page
        self._backend = backend
        self._record = record
        self._recorded: dict[Hashable, _Recorded] = {}
        self._failed = False

    def takes(self, batch: PackedBatch) -> bool:
        """Whether this step can be replayed: each sequence has one new token, and no adapter.

        What adapters add is cut to each step's segments, which a recording can't follow.
        """
        decodes = len(batch.token_ids) == len(batch.query_lens)
        plain = batch.tail_lens is None and not batch.inner and batch.depth is None
        return decodes and plain and batch.adapters is None and not self._failed

    def run(self, batch: PackedBatch, token_ids: Tensor) -> Tensor:
        """Compute the final hidden states [T, D] of a step that it takes.

        Args:
            batch: the step.
            token_ids: [T] its tokens on the device, which may know more of them than the batch.
        """
        padded = pad(batch, bucket(len(batch.token_ids)), self._spare_page, self._cache.page_size)
        plans = self._model.plan(padded, self._backend, self._cache.page_size, CPU).groups
        key = (len(padded.token_ids), *(plans[kind].attention.key() for kind in sorted(plans)))
        recorded = self._recorded.get(key)
        if recorded is None:
            recorded = self._recorded[key] = self._prepare(padded, token_ids)
        else:
            recorded.token_ids[: len(token_ids)].copy_(token_ids)
            refill(recorded.positions, torch.from_numpy(padded.positions))
            for kind, plan in plans.items():
                _refill_plan(recorded.plans[kind], plan)
        # Readers may keep hidden states longer than until the next replay.
        return recorded.replay()[: len(batch.token_ids)].clone()

    def _prepare(self, padded: PackedBatch, token_ids: Tensor) -> _Recorded:
        """Record a step of a new shape, with buffers that hold this one's values."""
        device = self._model.device
        token_ids = constant_pad(token_ids, (0, len(padded.token_ids) - len(token_ids)))
        positions = to_device(padded.positions.copy(), device)
        plans = self._model.plan(padded, self._backend, self._cache.page_size).groups

        def body() -> Tensor:
            fresh = {
                kind: plan._replace(attention=plan.attention.renewed())
                for kind, plan in plans.items()
            }
            step = AttentionPlan(fresh, tail=None)
            hidden: Tensor = self._model(token_ids, positions, self._cache, step, self._backend)
            return hidden

        try:
            return _Recorded(token_ids, positions, plans, self._record(body))
        except RuntimeError as error:
            logging.getLogger(__name__).warning(
                "decoding without CUDA graphs, which is slower: the capture failed (%s)", error
            )
            self._failed = True
            return _Recorded(token_ids, positions, plans, body)


class CudaRecorder:
    """Records CUDA graphs that share their memory: what one returns, the next replay overwrites."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Replay) -> Replay:
        """Capture what a function launches; its result keeps its place."""
        # What is allocated or compiled at a first call can't be part of a capture.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                body()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = body()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def bucket(sequences: int) -> int:
    """Return the number of sequences that a step is padded to: the next power of two."""
    return next_power_of_two(sequences)


def pad(batch: PackedBatch, size: int, spare_page: int, page_size: int) -> PackedBatch:
    """Fill a step of decodes up with sequences of one token, all on the same page."""
    missing = size - len(batch.token_ids)

    def filled(values: Ints, value: int) -> Ints:
        return np.concatenate([values, np.full(missing, value, dtype=np.int64)])

    table = (np.array([spare_page], dtype=np.int64),) * missing
    return replace(
        batch,
        token_ids=filled(batch.token_ids, 0),
        positions=filled(batch.positions, 0),
        query_lens=filled(batch.query_lens, 1),
        key_lens=filled(batch.key_lens, 1),
        groups={
            kind: GroupLayout(
                slots=filled(layout.slots, spare_page * page_size),
                tables=layout.tables + table,
                first_key=filled(layout.first_key, 0),
            )
            for kind, layout in batch.groups.items()
        },
    )


def _refill_plan(target: LayerGroupPlan, source: LayerGroupPlan) -> None:
    refill(target.slots_T, source.slots_T)
    pairs = zip(target.attention.tensors(), source.attention.tensors(), strict=True)
    for old, new in pairs:
        refill(old, new)
