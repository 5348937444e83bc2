"""What adapters add to a projection's outputs, each to the rows of its own requests.

The products go through the kernels' own matmuls, so that their bits depend on neither the number of
rows nor what else is in the step. Shape suffixes: T tokens of the step, D inputs, N outputs of this
rank, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.batch import Segment
from model.kernels import Kernels, Linear

from .adapter import Adapter, LowRank

# Ranks are filled up with zeros to multiples of this: kernels take no others.
RANK_STEP = 8


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """Adapters by their numbers, and what is to compute with them.

    Attributes:
        adapters: whose numbers are their places.
        kernels: of the model.
        dtype: that it computes in.
        device: that it computes on.
    """

    adapters: Sequence[Adapter]
    kernels: Kernels
    dtype: torch.dtype
    device: torch.device

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Return x -> x W^T + bias; never quantized."""
        bias = None if bias is None else bias.to(self.device, self.dtype)
        weight = weight.to(self.device, self.dtype).contiguous()
        return self.kernels.linear(weight, bias, "none")


class _Up(NamedTuple):
    """From some of the R low-rank features to some of the N outputs."""

    form: Linear
    ranks: slice
    outputs: slice


class LowRankUpdate:
    """What one adapter adds to one matmul, which may be several projections of the same input.

    Attributes:
        nbytes: of its matrices.
    """

    def __init__(self, down: Linear, ups: Sequence[_Up]) -> None:
        self._down = down
        self._ups = ups
        self.nbytes = down.nbytes + sum(up.form.nbytes for up in ups)

    def add_to(self, out_TN: Tensor, x_TD: Tensor) -> None:
        """Add the products of x to the outputs, in place."""
        low_TR = self._down(x_TD)
        for up in self._ups:
            out_TN[:, up.outputs].add_(up.form(low_TR[:, up.ranks]))


class Updates:
    """Those of all adapters that change one matmul, by their number.

    Attributes:
        nbytes: of all their matrices.
    """

    def __init__(self, by_adapter: Mapping[int, LowRankUpdate]) -> None:
        self._by_adapter = by_adapter
        self.nbytes = sum(update.nbytes for update in by_adapter.values())

    def add_to(self, out_TN: Tensor, x_TD: Tensor, segments: Sequence[Segment]) -> None:
        """Add to the rows of each segment what its adapter gives, in place."""
        for segment in segments:
            update = self._by_adapter.get(segment.adapter)
            if update is not None:
                rows = slice(segment.start, segment.stop)
                update.add_to(out_TN[rows], x_TD[rows])


def column_updates(
    adapters: AdapterSet, prefix: str, projections: Mapping[str, slice]
) -> Updates | None:
    """Cut what adapters change of projections whose outputs are cut over the ranks.

    Args:
        adapters: all of them.
        prefix: of the projections' names in the checkpoint.
        projections: of one input, by name in the order of their outputs: which of these this rank
            computes.

    Returns:
        None if no adapter changes any of them.
    """
    return _updates(
        {
            number: _update(adapters, parts)
            for number, adapter in enumerate(adapters.adapters)
            if (parts := _parts(adapter, prefix, projections))
        }
    )


def row_updates(adapters: AdapterSet, name: str, part: slice) -> Updates | None:
    """Cut what adapters change of a projection whose inputs are cut over the ranks.

    The ranks' products add up as those of the weight do: each has its part of A's columns, and all
    of B.

    Args:
        adapters: all of them.
        name: of the projection in the checkpoint.
        part: of the inputs that this rank has.

    Returns:
        None if no adapter changes it.
    """
    return _updates(
        {
            number: _update(adapters, [(change._replace(down=change.down[:, part]), slice(None))])
            for number, adapter in enumerate(adapters.adapters)
            if (change := adapter.changes.get(name)) is not None
        }
    )


def head_forms(adapters: AdapterSet, prefix: str) -> dict[int, Linear]:
    """Return the classification heads that adapters bring, by the adapters' numbers."""
    return {
        number: adapters.linear(
            adapter.head[f"{prefix}.weight"], adapter.head.get(f"{prefix}.bias")
        )
        for number, adapter in enumerate(adapters.adapters)
        if adapter.head
    }


def _updates(by_adapter: dict[int, LowRankUpdate]) -> Updates | None:
    return Updates(by_adapter) if by_adapter else None


def _parts(
    adapter: Adapter, prefix: str, projections: Mapping[str, slice]
) -> list[tuple[LowRank, slice]]:
    """Return this rank's part of each change, and the outputs that it goes to."""
    parts, start = [], 0
    for name, outputs in projections.items():
        stop = start + outputs.stop - outputs.start
        change = adapter.changes.get(f"{prefix}.{name}")
        if change is not None:
            parts.append((change._replace(up=change.up[outputs]), slice(start, stop)))
        start = stop
    return parts


def _update(adapters: AdapterSet, parts: Sequence[tuple[LowRank, slice]]) -> LowRankUpdate:
    """Stack the parts' A matrices, so that one matmul computes all of them."""
    downs, ups, start = [], [], 0
    for change, outputs in parts:
        missing = -len(change.down) % RANK_STEP
        downs.append(functional.pad(change.down.float(), (0, 0, 0, missing)))
        up = functional.pad(change.up.float() * change.scaling, (0, missing))
        stop = start + up.shape[1]
        ups.append(_Up(adapters.linear(up), slice(start, stop), outputs))
        start = stop
    return LowRankUpdate(adapters.linear(torch.cat(downs)), ups)
