"""What every attention backend does, whatever computes it.

Shape suffixes: T tokens of the step, S sequences, N query heads, K KV heads, H head size, P pages,
B tokens per page, L keys. With G = N / K, query head n reads KV head n // G.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from model.batch import GroupLayout, PackedBatch


class StaticPlan(Protocol):
    """A plan whose values can be replaced in place, by those of another step of decodes.

    A captured CUDA graph is given the next step in this way.
    """

    def key(self) -> Hashable:
        """Return what can't be replaced: plans with equal keys can stand in for each other."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Return everything else, always in the same order and shapes."""

    def renewed(self) -> Self:
        """Return a plan with these very tensors, and nothing that was derived of their values."""


class AttentionBackend(ABC):
    """Causal attention of packed queries over paged keys and values.

    Attributes:
        name: as users choose it.
        page_size: the page size that suits it best.
        reads_whole_pages: it weighs slots that no query may see with zero instead of leaving them
            unread, so whatever they hold must be finite.
        has_static_plans: its plans are `StaticPlan`s.
    """

    name: str
    page_size: int
    reads_whole_pages: bool = False
    has_static_plans: bool = False

    @abstractmethod
    def plan(
        self,
        batch: PackedBatch,
        layout: GroupLayout,
        page_size: int,
        window: int | None,
        device: torch.device,
    ) -> Any:
        """Prepare what all layers of one group share in this step.

        Args:
            batch: the step.
            layout: where this group keeps its keys.
            page_size: of the KV cache.
            window: keys that a query sees, itself included; None for all up to itself.
            device: of the tensors that `attend` will get.
        """

    @abstractmethod
    def attend(
        self,
        q_TNH: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        plan: Any,
        *,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        """Attend with one layer's queries, giving [T, N, H] in the dtype of q.

        Args:
            q_TNH: rotated queries.
            k_pages: [P, B, K, H], the step's own keys already written.
            v_pages: likewise.
            plan: what `plan` of this backend returned for the layer's group.
            scale: factor of q · k.
            softcap: scores s become softcap * tanh(s / softcap), before masking; None leaves them.
        """
