"""One rank's share of a step: its slice of the model, its pages, its part of the collectives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model import attention, kernels
from model.batch import PackedBatch, Segment, are_all
from model.checkpoint import load
from model.config import ModelConfig
from model.gemma2 import Gemma2
from model.kernels.fp8 import require_fp8
from model.kv_cache import KVCache
from model.lora import load_merged, read_adapter
from model.parallel import TensorParallel, heads_of_rank
from model.params import AttentionName, KernelsName, Quantization
from model.sampling import Vocabulary
from model.transfer import to_device

from .graphs import CudaRecorder, DecodeGraphs
from .states import States


@dataclass(frozen=True, slots=True)
class RankSetup:
    """What a rank is built from; the same for all of them, and small enough to send.

    Attributes:
        folder: the local checkpoint.
        config: its config.
        dtype: "bfloat16" or "float32".
        device_type: "cpu" or "cuda"; rank r takes CUDA device r.
        attention: the attention backend.
        kernels: what computes the rest of a layer.
        quantization: of the layers' linears.
        page_size: tokens per page, or None for the backend's choice.
        threads: CPU threads, or None for torch's choice.
        cuda_graphs: replay captured decode steps on CUDA.
        adapter: the local folder of one that is merged into the weights.
        adapters: of those that are kept beside them, in the order of their numbers.
    """

    folder: Path
    config: ModelConfig
    dtype: str
    device_type: str
    attention: AttentionName
    kernels: KernelsName
    quantization: Quantization
    page_size: int | None
    threads: int | None
    cuda_graphs: bool = True
    adapter: Path | None = None
    adapters: tuple[Path, ...] = ()

    def device(self, rank: int) -> torch.device:
        """Return the device of a rank."""
        return torch.device("cuda", rank) if self.device_type == "cuda" else torch.device("cpu")


class Runner:
    """Computes packed batches on one rank.

    Attributes:
        vocabulary: the tokens whose logits it computes.

    Args:
        setup: what it is built from.
        tp: its place among the ranks.
        check: called between the tensors of the checkpoint, which may be minutes of work; what it
            raises ends the construction.

    Raises on construction: CheckpointError, ParameterError (a backend that can't run here).
    """

    def __init__(
        self, setup: RankSetup, tp: TensorParallel, check: Callable[[], None] | None = None
    ) -> None:
        if setup.threads is not None:
            torch.set_num_threads(setup.threads)
        self.device = setup.device(tp.rank)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # Triton launches on the current one
        if setup.quantization == "fp8":
            require_fp8(self.device)
        self.config = setup.config
        self.dtype: torch.dtype = getattr(torch, setup.dtype)
        self.backend = attention.choose(
            setup.attention, self.device, self.dtype, setup.config.head_dim
        )
        self.page_size = setup.page_size or self.backend.page_size
        self.model = Gemma2(setup.config, tp, self.dtype, self.device)
        wanted = (self.model.shards(), setup.folder, self.model.ignorable(), check)
        if setup.adapter is None:
            load(*wanted)
        else:
            load_merged(*wanted, read_adapter(setup.adapter, setup.config))
        chosen = kernels.choose(setup.kernels, self.device, self.dtype)
        self.model.prepare(chosen, setup.quantization, check)
        if setup.adapters:
            adapters = [read_adapter(folder, setup.config) for folder in setup.adapters]
            self.model.attach(adapters, check)
        self.vocabulary = Vocabulary(setup.config.vocab_size, tp, chosen.peaks)
        self._kv_heads = heads_of_rank(setup.config, tp.rank, tp.size).num_kv
        self._cache: KVCache | None = None
        self._graphs: DecodeGraphs | None = None
        self._captures = (
            setup.cuda_graphs
            and tp.size == 1
            and self.device.type == "cuda"
            and self.backend.has_static_plans
        )

    @property
    def bytes_per_page(self) -> int:
        """Bytes that one page takes on this rank, over all layers."""
        return KVCache.bytes_per_page(self.config, self.page_size, self._kv_heads, self.dtype)

    def allocate(self, num_pages: int) -> None:
        """Set the pages of the KV cache aside."""
        self._cache = KVCache(
            self.config,
            num_pages + (1 if self._captures else 0),  # where steps that are filled up write
            self.page_size,
            self._kv_heads,
            self.dtype,
            self.device,
            clear=self.backend.reads_whole_pages,
        )
        if self._captures:
            self._graphs = DecodeGraphs(
                self.model, self._cache, num_pages, self.backend, CudaRecorder()
            )

    @torch.inference_mode()
    def run(self, batch: PackedBatch, drawn: Tensor | None = None) -> tuple[States, Tensor | None]:
        """Compute one step.

        Args:
            batch: the step.
            drawn: [D] int64 tokens drawn in the step before, on this device; the batch may carry
                some of them.

        Returns:
            The hidden states, and the logits [R, vocab_size] of batch.logit_rows, or None where
            there are none.
        """
        cache = self._cache
        assert cache is not None, "allocate() comes first"
        cache.copy_pages(batch.copies)
        token_ids = self._token_ids(batch, drawn)
        inner: dict[int, Tensor] = {}

        def keep(layer: int, x_TD: Tensor) -> None:
            if layer in batch.inner:
                inner[layer] = x_TD.clone()

        if self._graphs is not None and self._graphs.takes(batch):
            hidden = self._graphs.run(batch, token_ids)
        else:
            hidden = self.model(
                token_ids,
                self._tensor(batch.positions),
                cache,
                self.model.plan(batch, self.backend, self.page_size),
                self.backend,
                keep=keep if batch.inner else None,
                depth=batch.depth,
            )
        states, rows = States(hidden, inner), batch.logit_rows
        if not len(rows):
            return states, None
        if are_all(rows, hidden.shape[0]):
            return states, self.model.logits(hidden)
        return states, self.model.logits(hidden.index_select(0, self._tensor(rows)))

    @torch.inference_mode()
    def head(self, hidden: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """Return the classification head's outputs [R, labels] for hidden states [R, D]."""
        return self.model.score(hidden, segments)

    def _token_ids(self, batch: PackedBatch, drawn: Tensor | None) -> Tensor:
        """Return the batch's tokens [T], those that only the device knows included."""
        token_ids = self._tensor(batch.token_ids)
        if not batch.carried:
            return token_ids
        assert drawn is not None, "nothing was drawn in the step before"
        rows, places = self._tensor(np.array(batch.carried, dtype=np.int64).T.copy())
        return token_ids.index_copy(0, rows, drawn[places])

    def _tensor(self, values: npt.NDArray[np.int64]) -> Tensor:
        return to_device(values, self.device)
