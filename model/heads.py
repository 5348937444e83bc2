"""Before and behind the layers: the table of tokens, also the language-model head, and other heads.

Shape suffixes: T tokens, R rows of them, D hidden, V vocabulary, L labels. Parameters are made
empty and prepared as in `layers`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .batch import Segment
from .checkpoint import Shard
from .kernels import Kernels, Linear, TokenTable
from .layers import ALL, empty_parameter
from .lora import AdapterSet, head_forms
from .parallel import TensorParallel, vocab_of_rank


class VocabParallelEmbedding(nn.Module):
    """A table with a row per token, cut over the ranks: input embedding and output head.

    Each rank has the same number of rows; those past the vocabulary's end are zero.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        tp: TensorParallel,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.tp = tp
        self.share = vocab_of_rank(vocab_size, tp.rank, tp.size)
        self.weight = empty_parameter(self.share.padded, hidden_size, dtype=dtype, device=device)
        self.weight[self.share.size :].zero_()
        self.form: TokenTable

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self.form.nbytes

    def prepare(self, kernels: Kernels) -> None:
        """Hand the loaded table over."""
        self.form = kernels.token_table(self.weight.detach())
        del self.weight

    def forward(self, ids_T: Tensor, scale: float = 1.0) -> Tensor:
        """Look up [T] ids of the whole vocabulary, giving `scale` times their rows [T, D]."""
        if self.tp.size == 1:
            return self.form.embed(ids_T, scale)
        rows = self.share.rows
        elsewhere_T = (ids_T < rows.start) | (ids_T >= rows.stop)
        local_T = (ids_T - rows.start).masked_fill_(elsewhere_T, 0)
        x_TD = self.form.embed(local_T, scale)
        return self.tp.all_reduce(x_TD.masked_fill_(elsewhere_T[:, None], 0.0))

    def project(self, x_RD: Tensor, softcap: float | None = None) -> Tensor:
        """Return x's products with the tokens of this rank, soft-capped: [R, share.size]."""
        return self.form.project(x_RD, softcap)[:, : self.share.size]

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        shape = (self.vocab_size, self.weight.shape[1])
        target = self.weight[: self.share.size]
        yield Shard(f"{prefix}.weight", shape, (self.share.rows, ALL), target)


class LabelHead(nn.Module):
    """A linear layer from hidden states to labels, the same on every rank.

    Adapters may bring one of their own, which takes its place for their rows.
    """

    def __init__(
        self, hidden_size: int, labels: int, *, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = empty_parameter(labels, hidden_size, dtype=dtype, device=device)
        self.bias = empty_parameter(labels, dtype=dtype, device=device) if bias else None
        self.form: Linear
        self.others: dict[int, Linear] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, those of adapters included."""
        return self.form.nbytes + sum(form.nbytes for form in self.others.values())

    def prepare(self, kernels: Kernels) -> None:
        """Hand the loaded weights over; a head is never quantized."""
        self.form = kernels.linear(self.weight.detach(), self.bias, "none")
        del self.weight

    def attach(self, adapters: AdapterSet, prefix: str) -> None:
        """Take the heads that adapters bring."""
        self.others = head_forms(adapters, prefix)

    def forward(self, x_RD: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """Return [R, L] outputs, neither capped nor normalised."""
        out_RL = self.form(x_RD)
        for number, start, stop in segments:
            if number in self.others:
                out_RL[start:stop] = self.others[number](x_RD[start:stop])
        return out_RL

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        yield Shard(f"{prefix}.weight", tuple(self.weight.shape), (ALL, ALL), self.weight)
        if self.bias is not None:
            yield Shard(f"{prefix}.bias", tuple(self.bias.shape), (ALL,), self.bias)
