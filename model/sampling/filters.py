"""Temperature, top-k, top-p and min-p, with the cuts that transformers' warpers make.

Shapes: R rows, W columns, K candidates.

The likeliest K tokens of a row usually hold everything that these filters keep. Only a row where
they don't is looked at again with more candidates, at last with all, so the result is that of a
full sort.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from model.transfer import to_device

from .rows import SamplingRow
from .vocabulary import Vocabulary

FIRST_CANDIDATES = 64
MORE_CANDIDATES = 8
# For one row, by each rank; a single rank goes on to all that it has.
MOST_EXCHANGED = 4096
# Dividing a score by less could overflow float32; softmax is one-hot long before.
LOWEST_TEMPERATURE = 1e-30


def temper(scores_RW: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Divide each row by its temperature; the same tensor if there is nothing to do."""
    temperatures = [max(row.params.temperature, LOWEST_TEMPERATURE) for row in rows]
    if all(temperature == 1.0 for temperature in temperatures):
        return scores_RW
    divisors_R = to_device(np.array(temperatures, dtype=np.float32), scores_RW.device)
    return scores_RW / divisors_R[:, None]


def candidates_to_start_with(row: SamplingRow, vocab_size: int) -> int:
    """Return how many of the likeliest tokens will do for most rows of these settings."""
    # The next power of two above top_k leaves room for tokens that equal the k-th.
    return max(FIRST_CANDIDATES, 1 << min(row.params.top_k, vocab_size).bit_length())


class Survivors(NamedTuple):
    """What the filters leave of some of the rows, the likeliest token first.

    Attributes:
        rows: [S] which rows these are.
        token_ids: [S, K]
        scores: [S, K] tempered scores.
        weights: [S, K] float64, proportional to the probability; 0 for what was dropped.
    """

    rows: Tensor
    token_ids: Tensor
    scores: Tensor
    weights: Tensor


class Limits(NamedTuple):
    """The filters' settings, [R, 1] each, and the sum of all weights before any filter."""

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    total: Tensor

    def of(self, rows: Tensor) -> Self:
        """Take some of the rows."""
        return type(self)(*(setting[rows] for setting in self))

    @classmethod
    def read(cls, rows: Sequence[SamplingRow], highest_p_R: Tensor) -> Self:
        """Read the settings of R rows.

        Args:
            rows: R rows.
            highest_p_R: float32 highest probability in the softmax of the tempered scores; of
                use only for rows that have top_p and no top_k.
        """
        settings = [row.params for row in rows]
        return cls(
            top_k=torch.tensor([[s.top_k] for s in settings], device=highest_p_R.device),
            top_p=highest_p_R.new_tensor([[s.top_p] for s in settings], dtype=torch.float64),
            min_p=highest_p_R.new_tensor([[s.min_p] for s in settings]),
            # The likeliest token weighs 1.
            total=highest_p_R[:, None].double().reciprocal(),
        )


def survivors(
    scores_RW: Tensor, limits: Limits, candidates: int, vocabulary: Vocabulary
) -> Iterator[Survivors]:
    """Apply top-k, top-p and min-p; yield each row once, those that need few candidates first.

    Rows that need more candidates than ranks exchange are left out, see `bisection`.

    Args:
        scores_RW: [R, W] float32 tempered scores.
        limits: of R rows.
        candidates: how many of the likeliest to try first, more than any row's top_k unless it
            is W at least. The results don't depend on it.
        vocabulary: which tokens the columns are.
    """
    everyone = torch.arange(len(scores_RW), device=scores_RW.device)
    pending = everyone
    while len(pending) and (vocabulary.alone or candidates <= MOST_EXCHANGED):
        scores = scores_RW if len(pending) == len(everyone) else scores_RW[pending]
        k = min(candidates, vocabulary.columns)
        # Among equal scores at the edge of top-p the highest ids stay: transformers drops from the
        # low end of an ascending sort, and where torch makes that a stable one, the result is this.
        ids, values = vocabulary.ranked(scores, k, lowest_id_first=False)
        weights, settled = _weigh(values, limits.of(pending))
        if k == vocabulary.columns:
            settled = torch.ones_like(settled)
        if settled.any():
            parts = (pending, ids, values, weights)
            yield Survivors(*(part[settled] for part in parts))
        pending = pending[~settled]
        candidates *= MORE_CANDIDATES


def _weigh(scores: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Return weights [R, K] of falling scores, 0 for what is dropped, and [R] if K were enough."""
    has_top_k, last = limits.top_k > 0, scores[:, -1:]
    kth = scores.gather(1, limits.top_k.clamp(max=scores.shape[1]).sub(1).clamp(min=0))

    # TopKLogitsWarper: tokens that equal the k-th stay.
    keep = ~has_top_k | (scores >= kth)
    ratio = torch.exp(scores - scores[:, :1])
    weights = ratio.double() * keep
    sums = weights.cumsum(-1)
    total = torch.where(has_top_k, sums[:, -1:], limits.total)

    # TopPLogitsWarper: drop what lies in the lower 1 - top_p, compared in float32 as there; the
    # likeliest token stays. What is left from a token downwards is all but the tokens before it.
    tail = (total - (sums - weights)) / total
    keep &= (tail.float() > (1 - limits.top_p).float()) | (limits.top_p == 1.0)
    keep[:, 0] = True

    # MinPLogitsWarper.
    keep &= ratio >= limits.min_p

    # Every filter keeps the upper end of the order. If the last token that is kept beats the last
    # candidate, nothing beyond the candidates could be kept, or equal one that is.
    lowest = scores.gather(1, keep.sum(-1, keepdim=True).sub(1).clamp(min=0))
    settled = (lowest > last) & (~has_top_k | (kth > last))
    return weights * keep, (settled | (last == -torch.inf)).squeeze(1)
