"""Drives a model over a paged cache by hand, without the engine: the tests' own page tables.

Pages are dealt in random order, taken back as soon as the window has left them, and filled with NaN
before they are dealt and after they are taken back: whatever reads a slot that it must not read
gives NaN. A backend that reads whole pages, to mask a part, finds large numbers instead. Does not
import transformers, so that rank processes start soon.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.attention import AttentionBackend, ReferenceAttention
from model.batch import GroupLayout, LayerKind, PackedBatch
from model.config import ModelConfig
from model.gemma2 import Gemma2
from model.kernels import Kernels, PlainKernels
from model.kv_cache import KVCache
from model.parallel import TensorParallel, heads_of_rank

Work = Sequence[tuple[int, Sequence[int]]]


@dataclass
class Table:
    """Pages of one sequence in one layer group; the first one holds position first_key."""

    pages: list[int] = field(default_factory=list)
    first_key: int = 0


class PagedModel:
    """A model, its cache, and the sequences in it by a number that the caller picks."""

    def __init__(
        self,
        model: Gemma2,
        *,
        page_size: int = 4,
        num_pages: int = 512,
        backend: AttentionBackend | None = None,
    ) -> None:
        self.model = model
        self.backend = backend or ReferenceAttention()
        self.page_size = page_size
        config = model.config
        kv_heads = heads_of_rank(config, model.tp.rank, model.tp.size).num_kv
        self.cache = KVCache(config, num_pages, page_size, kv_heads, model.dtype, model.device)
        self.poison = 1000.0 if self.backend.reads_whole_pages else torch.nan
        self.free = list(range(num_pages))
        random.Random(0).shuffle(self.free)
        self._poison(self.free)
        self.lengths: dict[int, int] = {}
        self.tables: dict[tuple[int, LayerKind], Table] = {}

    def step(self, work: Work, collect: list[Tensor] | None = None) -> Tensor:
        """Append each sequence's new tokens, all in one packed batch; gives [T, D].

        Every hidden state, as transformers numbers them, is appended to `collect`.
        """
        batch = self._batch(work)
        layouts = self.model.plan(batch, self.backend, self.page_size)
        token_ids = torch.from_numpy(batch.token_ids).to(self.model.device)
        positions = torch.from_numpy(batch.positions).to(self.model.device)

        def keep(_: int, states: Tensor) -> None:
            if collect is not None:
                collect.append(states.clone())

        final = self.model.forward(
            token_ids, positions, self.cache, layouts, self.backend, keep=keep
        )
        if collect is not None:
            collect.append(final)
        return final

    def run(self, ids: Sequence[int], sizes: Sequence[int] | None = None, name: int = 0) -> Tensor:
        """Feed one sequence in chunks of the given sizes (one shot by default); gives [T, D]."""
        chunks = np.split(np.asarray(ids), np.cumsum(sizes or [len(ids)])[:-1])
        return torch.cat([self.step([(name, chunk.tolist())]) for chunk in chunks])

    def feed(self, texts: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[Tensor]:
        """Feed texts of one length side by side, in chunks of the given sizes.

        Returns every hidden state [T, D], one text after another.
        """
        steps: list[list[Tensor]] = []
        for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
            steps.append([])
            work = [(name, ids[end - size : end]) for name, ids in enumerate(texts)]
            self.step(work, collect=steps[-1])
        return [
            torch.cat([chunk.unflatten(0, (len(texts), -1)) for chunk in chunks], dim=1).flatten(
                0, 1
            )
            for chunks in zip(*steps, strict=True)
        ]

    def _batch(self, work: Work) -> PackedBatch:
        starts = [self.lengths.get(name, 0) for name, _ in work]
        counts = [len(ids) for _, ids in work]
        for (name, _), start, count in zip(work, starts, counts, strict=True):
            self.lengths[name] = start + count
        spans = list(zip([name for name, _ in work], starts, counts, strict=True))
        return PackedBatch(
            token_ids=np.concatenate([np.asarray(ids, dtype=np.int64) for _, ids in work]),
            positions=np.concatenate(
                [np.arange(s, s + n) for s, n in zip(starts, counts, strict=True)]
            ),
            query_lens=np.array(counts),
            key_lens=np.array([s + n for s, n in zip(starts, counts, strict=True)]),
            groups={kind: self._layout(kind, spans) for kind in set(self.model.config.layer_types)},
        )

    def _layout(self, kind: LayerKind, spans: Sequence[tuple[int, int, int]]) -> GroupLayout:
        slots = []
        tables = []
        for name, start, count in spans:
            table = self.tables.setdefault((name, kind), Table())
            if kind == "sliding_attention":
                self._drop(table, start - self.model.config.sliding_window + 1)
            places = np.arange(start, start + count) - table.first_key
            while len(table.pages) * self.page_size <= places[-1]:
                table.pages.append(self.free.pop())
            pages = np.array(table.pages)
            slots.append(pages[places // self.page_size] * self.page_size + places % self.page_size)
            tables.append(pages)
        first_key = [self.tables[name, kind].first_key for name, _, _ in spans]
        return GroupLayout(np.concatenate(slots), tuple(tables), np.array(first_key))

    def _drop(self, table: Table, first_needed: int) -> None:
        """Take back the pages before the one that holds the first position still needed."""
        while table.pages and table.first_key + self.page_size <= first_needed:
            page = table.pages.pop(0)
            table.first_key += self.page_size
            self._poison([page])
            self.free.insert(0, page)

    def _poison(self, pages: Sequence[int]) -> None:
        for layer in range(self.model.config.num_hidden_layers):
            for tensor in self.cache.layer(layer):
                tensor[list(pages)] = self.poison


def from_state_dict(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tp: TensorParallel | None = None,
    kernels: Kernels | None = None,
) -> Gemma2:
    """Fill our model from a Hugging Face state dict held in memory, strictly."""
    dtype = state["model.embed_tokens.weight"].dtype
    model = Gemma2(config, tp or TensorParallel.single(), dtype, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    loaded = set()
    for shard in model.shards():
        tensor = state[shard.name]
        assert tuple(tensor.shape) == shard.full_shape
        part = tensor[shard.slices]
        assert part.shape == shard.target.shape
        shard.target.copy_(part)
        loaded.add(shard.name)
    assert set(state) - loaded <= model.ignorable()
    model.prepare(kernels or PlainKernels())
    return model
