"""The layers of Gemma 2 around its attention, cut over tensor-parallel ranks.

Shape suffixes: T tokens, R rows of them, D hidden, F this rank's feed-forward width, N query
heads, K KV heads, H head size.

A layer is made with empty parameters, for a checkpoint to fill through `shards`; `prepare` then
hands them to the kernels that will compute with them, and drops those that are kept in another
form. Only then can a layer be called, and adapters attached to it, whose products it adds to the
rows of their segments.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .batch import Segment
from .checkpoint import Shard
from .kernels import GatedLinear, Kernels, Linear
from .lora import AdapterSet, Updates, column_updates, row_updates
from .parallel import TensorParallel, even_slice
from .params import Quantization
from .quantization import QuantizedWeight, empty_weight, weight_shards

ALL = slice(None)


def empty_parameter(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """Allocate a parameter for a checkpoint to fill; it is never trained."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), in float32 and rounded once.

    The one rounding, after the weight, is Gemma's: Llama rounds before it. See
    https://github.com/huggingface/transformers/pull/29402
    """

    def __init__(self, size: int, eps: float, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.eps = eps
        self.weight = empty_parameter(size, dtype=dtype, device=device)
        self.gain_D: Tensor
        self._kernels: Kernels

    def prepare(self, kernels: Kernels) -> None:
        """Take the loaded weight."""
        self.gain_D = 1.0 + self.weight.detach().float()
        self._kernels = kernels

    def forward(self, x_TD: Tensor) -> Tensor:
        """Norm each row of [T, D]."""
        return self._kernels.rms_norm(x_TD, self.gain_D, self.eps)

    def add(self, x_TD: Tensor, branch_TD: Tensor, after: "RMSNorm") -> tuple[Tensor, Tensor]:
        """Add the normed branch to x, maybe in place; return the sum, and it normed by `after`."""
        return self._kernels.add_norm(x_TD, branch_TD, self.gain_D, after.gain_D, self.eps)

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        yield Shard(f"{prefix}.weight", tuple(self.weight.shape), (ALL,), self.weight)


class Rotary:
    """Rotary position embedding in its half-split form (Su et al. 2021, arXiv:2104.09864).

    Frequencies are float32 whatever the model's dtype: in bfloat16, positions past 256 collide.
    """

    def __init__(self, head_dim: int, theta: float, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
        self.inv_freq = (1.0 / theta**exponents).to(device)

    def angles(self, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and sin, each [T, 1, H/2], rounded to `dtype`; once per step."""
        angles = positions_T[:, None, None].float() * self.inv_freq
        return angles.cos().to(dtype), angles.sin().to(dtype)


class ColumnParallelLinear(nn.Module):
    """Several projections of one input as one matmul; each rank holds a part of each one's outputs.

    Args:
        in_features: width of the input, whole on every rank.
        projections: by its name in the checkpoint, each one's width and which of its outputs this
            rank holds.
        stored: in what form the checkpoint has the weights.
    """

    def __init__(
        self,
        in_features: int,
        projections: dict[str, tuple[int, slice]],
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
        stored: Quantization = "none",
    ) -> None:
        super().__init__()
        self.projections = projections
        self.widths = [part.stop - part.start for _, part in projections.values()]
        width = sum(self.widths)
        self.weight: nn.Parameter | QuantizedWeight = empty_weight(
            width, in_features, stored, dtype=dtype, device=device
        )
        self.bias = empty_parameter(width, dtype=dtype, device=device) if bias else None
        self.form: Linear
        self.updates: Updates | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, those of adapters included."""
        return self.form.nbytes + (self.updates.nbytes if self.updates else 0)

    def prepare(
        self, kernels: Kernels, quantization: Quantization = "none", *, gated: bool = False
    ) -> None:
        """Hand the loaded weights over; `gated` ones give gelu_tanh(first) * second."""
        weight, bias = self.weight.detach(), self.bias
        self.form = (
            kernels.gated(weight, quantization)
            if gated
            else kernels.linear(weight, bias, quantization)
        )
        del self.weight

    def attach(self, adapters: AdapterSet, prefix: str) -> None:
        """Take what adapters change of the projections of this prefix."""
        parts = {name: part for name, (_, part) in self.projections.items()}
        self.updates = column_updates(adapters, prefix, parts)

    def forward(self, x_TD: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """Return the projections' outputs side by side: [T, sum of this rank's widths].

        Gated ones give their product: [T, half of it].
        """
        if self.updates is None or not segments:
            return self.form(x_TD)
        if isinstance(self.form, GatedLinear):
            return self._gated(self.form, self.updates, x_TD, segments)
        out_TN = self.form(x_TD)
        self.updates.add_to(out_TN, x_TD, segments)
        return out_TN

    @staticmethod
    def _gated(
        form: GatedLinear, updates: Updates, x_TD: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        """Compute rows with an adapter in two goes, and those before them in one, as ever."""
        first = segments[0].start
        x_RD = x_TD[first:]
        halves_RN = form.halves(x_RD)
        own = [Segment(number, start - first, stop - first) for number, start, stop in segments]
        updates.add_to(halves_RN, x_RD, own)
        product_RF = form.product(halves_RN)
        return torch.cat((form(x_TD[:first]), product_RF)) if first else product_RF

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        start = 0
        for (name, (full, part)), width in zip(self.projections.items(), self.widths, strict=True):
            stop = start + width
            shape = (full, self.weight.shape[1])
            rows = self.weight[start:stop]
            yield from weight_shards(f"{prefix}.{name}.weight", shape, (part, ALL), rows)
            if self.bias is not None:
                yield Shard(f"{prefix}.{name}.bias", (full,), (part,), self.bias[start:stop])
            start = stop


class RowParallelLinear(nn.Module):
    """A projection whose input is cut over the ranks: partial products, summed over the ranks."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        part: slice,
        tp: TensorParallel,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
        stored: Quantization = "none",
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.part = part
        self.tp = tp
        width = part.stop - part.start
        self.weight: nn.Parameter | QuantizedWeight = empty_weight(
            out_features, width, stored, dtype=dtype, device=device
        )
        self.bias = empty_parameter(out_features, dtype=dtype, device=device) if bias else None
        self.form: Linear
        self.updates: Updates | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the weight, those of adapters included."""
        return self.form.nbytes + (self.updates.nbytes if self.updates else 0)

    def prepare(self, kernels: Kernels, quantization: Quantization = "none") -> None:
        """Hand the loaded weights over."""
        bias = self.bias if self.tp.rank == 0 else None  # once in the sum
        self.form = kernels.linear(self.weight.detach(), bias, quantization)
        del self.weight

    def attach(self, adapters: AdapterSet, name: str) -> None:
        """Take what adapters change of the projection of this name."""
        self.updates = row_updates(adapters, name, self.part)

    def forward(self, x_TF: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """Project this rank's [T, F] of the input; the sum [T, D] is whole on every rank."""
        out_TD = self.form(x_TF)
        if self.updates is not None:
            self.updates.add_to(out_TD, x_TF, segments)
        return self.tp.all_reduce(out_TD)

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        out_features = self.weight.shape[0]
        shape = (out_features, self.in_features)
        yield from weight_shards(f"{prefix}.weight", shape, (ALL, self.part), self.weight)
        if self.bias is not None:
            yield Shard(f"{prefix}.bias", (out_features,), (ALL,), self.bias)


class GatedMLP(nn.Module):
    """down(gelu_tanh(gate(x)) * up(x)), cut over the ranks by feed-forward units."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        tp: TensorParallel,
        *,
        dtype: torch.dtype,
        device: torch.device,
        stored: Quantization = "none",
    ) -> None:
        super().__init__()
        part = even_slice(intermediate_size, tp.rank, tp.size)
        self.gate_up_proj = ColumnParallelLinear(
            hidden_size,
            {"gate_proj": (intermediate_size, part), "up_proj": (intermediate_size, part)},
            bias=False,
            dtype=dtype,
            device=device,
            stored=stored,
        )
        self.down_proj = RowParallelLinear(
            intermediate_size,
            hidden_size,
            part,
            tp,
            bias=False,
            dtype=dtype,
            device=device,
            stored=stored,
        )

    def prepare(self, kernels: Kernels, quantization: Quantization = "none") -> None:
        """Hand the loaded weights over."""
        self.gate_up_proj.prepare(kernels, quantization, gated=True)
        self.down_proj.prepare(kernels, quantization)

    def attach(self, adapters: AdapterSet, prefix: str) -> None:
        """Take what adapters change of this prefix."""
        self.gate_up_proj.attach(adapters, prefix)
        self.down_proj.attach(adapters, f"{prefix}.down_proj")

    def forward(self, x_TD: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """Return [T, D], whole on every rank."""
        out_TD: Tensor = self.down_proj(self.gate_up_proj(x_TD, segments), segments)
        return out_TD

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        yield from self.gate_up_proj.shards(prefix)
        yield from self.down_proj.shards(f"{prefix}.down_proj")
