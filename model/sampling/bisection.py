"""Filters and draws where what they keep is too much to be exchanged: bisection over the scores.

A flat distribution may keep most of a large vocabulary under top_p or min_p. Ranks then exchange
no candidates. Each sorts its own, and together they find scores by halving: how many tokens lie
above this one, and what do they weigh? The result is that of `filters`, which a single rank has
from a full sort: the same tokens in the same order, under the same random number.

Shapes: C rows, W columns of this rank, S ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .blocks import ranked
from .filters import Limits
from .vocabulary import Vocabulary

# Of a score, and more than a count has.
BITS = 32


def draw_by_bisection(
    scores_CW: Tensor, u_C: Tensor, limits: Limits, vocabulary: Vocabulary
) -> Tensor:
    """Return ids [C] drawn from what top-k, top-p and min-p leave.

    Args:
        scores_CW: float32 tempered scores; each row has a finite one on some rank.
        u_C: float64 in [0, 1).
        limits: of C rows.
        vocabulary: which tokens the columns are.
    """
    tokens = _Tokens(scores_CW, vocabulary)
    top_k, top_p, min_p, total = (setting[:, 0] for setting in limits)
    kth_C = tokens.highest_where(lambda t: tokens.from_score(t)[0] >= top_k)
    total = torch.where(top_k > 0, tokens.from_score(kth_C)[1], total)

    def in_top_p(above: Tensor) -> Tensor:
        tail = (total - above) / total
        return (tail.float() > (1 - top_p).float()) | (top_p == 1.0)

    def dropped(t: Tensor) -> Tensor:
        kept = in_top_p(tokens.above(t)[1]) & (tokens.weight(t) >= min_p)
        kept &= (top_k == 0) | (t >= kth_C)
        return ~kept & (t < tokens.best_C)

    # The lowest score that stays, and how many of those that have it: top-p may part equals.
    edge_C = tokens.next_above(tokens.highest_where(dropped))
    before_C, above_C = tokens.above(edge_C)
    equals_C, weight_C = tokens.from_score(edge_C)[0] - before_C, tokens.weight(edge_C).double()
    last_C = _highest(
        lambda n: in_top_p(above_C + n * weight_C), torch.zeros_like(kth_C), equals_C - 1
    )

    mass_C = above_C + (last_C + 1) * weight_C
    target_C = torch.minimum(u_C * mass_C, mass_C.nextafter(mass_C.new_tensor(0.0)))
    score_C = tokens.highest_where(lambda t: tokens.from_score(t)[1] > target_C)
    before_C, above_C = tokens.above(score_C)
    equals_C = tokens.from_score(score_C)[0] - before_C
    last_C = torch.where(score_C == edge_C, last_C, equals_C - 1)
    place_C = ((target_C - above_C) / tokens.weight(score_C).double()).floor()
    return tokens.token(score_C, torch.minimum(place_C.clamp(min=0.0), last_C))


class _Tokens:
    """The tokens of all ranks in falling order of their scores, the highest id first among equals.

    Attributes:
        best_C: the highest score of each row.
    """

    def __init__(self, scores_CW: Tensor, vocabulary: Vocabulary) -> None:
        self._scores_CW = scores_CW + 0.0  # no negative zero: it equals zero, its bits don't
        self._vocabulary = vocabulary
        self._columns_CW, falling_CW = ranked(
            self._scores_CW, scores_CW.shape[1], lowest_id_first=False
        )
        self._rising_CW = -falling_CW
        (best_SC,) = vocabulary.exchange(falling_CW[:, 0])
        self.best_C = best_SC.amax(0).float()
        weights_CW = self.weight(falling_CW.T).T.double()
        self._sums = pad(weights_CW.cumsum(-1), (1, 0))

    def weight(self, score: Tensor) -> Tensor:
        """Return the weight [..., C] float32 of a score, that of the best being 1."""
        return torch.exp(score - self.best_C)

    def above(self, score_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many tokens have more than a score, and their weight: [C] float64 each."""
        return self._until(score_C, inclusive=False)

    def from_score(self, score_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many tokens have a score or more, and their weight: [C] float64 each."""
        return self._until(score_C, inclusive=True)

    def highest_where(self, holds: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the highest score [C] for which something holds that holds below it too.

        -inf if it holds nowhere.
        """
        lowest_C = _key(torch.full_like(self.best_C, -torch.inf))
        return _score(_highest(lambda key: holds(_score(key)), lowest_C, _key(self.best_C)))

    def next_above(self, score_C: Tensor) -> Tensor:
        """Return the lowest score [C] that a token has above this one."""
        count_C = self._here(score_C, inclusive=False)
        next_C = -self._rising_CW.gather(1, (count_C - 1).clamp(min=0)[:, None])[:, 0]
        (next_SC,) = self._vocabulary.exchange(next_C.masked_fill(count_C == 0, torch.inf))
        return next_SC.amin(0).float()

    def token(self, score_C: Tensor, place_C: Tensor) -> Tensor:
        """Return the id [C] of the token at a place, from 0, among those of one score."""
        first_C = self._here(score_C, inclusive=False)
        count_C = self._here(score_C, inclusive=True) - first_C
        (count_SC,) = self._vocabulary.exchange(count_C)
        # Higher ids come first, and they are on the higher ranks.
        before_C = count_SC[self._vocabulary.rank + 1 :].sum(0)
        here_C = place_C - before_C
        mine_C = (here_C >= 0) & (here_C < count_C)
        index_C = (first_C + here_C.long()).clamp(0, self._columns_CW.shape[1] - 1)
        column_C = self._columns_CW.gather(1, index_C[:, None])[:, 0]
        return self._vocabulary.drawn(self._scores_CW, column_C, mine_C)

    def _until(self, score_C: Tensor, *, inclusive: bool) -> tuple[Tensor, Tensor]:
        count_C = self._here(score_C, inclusive=inclusive)
        sum_C = self._sums.gather(1, count_C[:, None])[:, 0]
        count_SC, sum_SC = self._vocabulary.exchange(count_C, sum_C)
        return count_SC.sum(0), sum_SC.sum(0)

    def _here(self, score_C: Tensor, *, inclusive: bool) -> Tensor:
        """Count this rank's tokens above a score, or from it on: [C] int64."""
        return torch.searchsorted(self._rising_CW, -score_C[:, None], right=inclusive)[:, 0]


def _highest(holds: Callable[[Tensor], Tensor], low_C: Tensor, high_C: Tensor) -> Tensor:
    """Return the highest number in [low, high] for which `holds`, or low if there is none.

    It holds for all numbers below one for which it holds. Every rank asks equally often.
    """
    for _ in range(BITS):
        middle_C = ((low_C + high_C + 1) / 2).floor().to(low_C.dtype)
        holds_C = holds(middle_C)
        low_C = torch.where(holds_C, middle_C, low_C)
        high_C = torch.where(holds_C, high_C, middle_C - 1).maximum(low_C)
    return low_C


def _key(score_C: Tensor) -> Tensor:
    """Turn float32 into float64 integers of the same order."""
    bits_C = score_C.view(torch.int32).long()
    return torch.where(bits_C < 0, -(bits_C & 0x7FFFFFFF), bits_C).double()


def _score(key_C: Tensor) -> Tensor:
    bits_C = key_C.abs().int()
    return torch.where(key_C < 0, -bits_C.view(torch.float32), bits_C.view(torch.float32))
