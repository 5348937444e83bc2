"""A vocabulary that is cut over the ranks, and what of it has to be exchanged to draw a token.

Every rank holds the logits of its own slice and never sees those of another. What the sampler asks
of whole rows is put together here from a few numbers for each row and rank: the best token, the
weight of the slice, the likeliest k. Every rank must ask the same questions in the same order, and
all of them get the same answers, bit for bit, since each computes them from the same numbers.

Shapes: C rows, W columns of this rank's slice (padded to whole blocks), S ranks, K candidates.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.kernels.base import Peaks
from model.parallel import TensorParallel, vocab_of_rank

from .blocks import BLOCK, argmax, in_order, ranked, whole_blocks
from .draw import invert


class Peak(NamedTuple):
    """The best token of each row, and what turns its scores into log-probabilities.

    Attributes:
        token: [C] int64 id, the lowest among equals.
        score: [C] float32.
        log_p: [C] float32 log of its probability; -inf where the score is.
    """

    token: Tensor
    score: Tensor
    log_p: Tensor


class Vocabulary:
    """The tokens whose logits this rank holds, and the questions about all of them.

    Args:
        size: tokens in all.
        tp: this rank's place; None is alone, and then nothing is exchanged.
        peaks: finds peaks where nothing else is wanted of the logits; None does it in torch.
    """

    def __init__(
        self, size: int, tp: TensorParallel | None = None, peaks: Peaks | None = None
    ) -> None:
        self._peaks = peaks
        self._tp = tp or TensorParallel.single()
        share = vocab_of_rank(size, self._tp.rank, self._tp.size)
        self.size = size
        self.ids = range(share.rows.start, share.rows.stop)
        # The same on every rank, so that all of them part their rows alike.
        self.width = -(-share.padded // BLOCK) * BLOCK

    @property
    def rank(self) -> int:
        """This rank's place: ids ascend over the ranks."""
        return self._tp.rank

    @property
    def alone(self) -> bool:
        """Whether one rank holds all of it."""
        return self._tp.size == 1

    @property
    def columns(self) -> int:
        """Columns of all ranks together, with their padding."""
        return self.width * self._tp.size

    def columns_of(self, logits_CV: Tensor) -> Tensor:
        """Return this rank's logits as [C, W] float32, -inf in the padding; maybe the same."""
        return whole_blocks(logits_CV, self.width)

    def peak(self, scores_CW: Tensor, p_CW: Tensor) -> Peak:
        """Find each row's best token and its probability.

        Args:
            scores_CW: float32.
            p_CW: float32, the softmax of this rank's columns alone.
        """
        return self.peak_of_all(self.peak_here(scores_CW, p_CW))

    def peak_here(self, scores_CW: Tensor, p_CW: Tensor) -> Peak:
        """Find the peak of each row in this rank's slice; the arguments are those of `peak`."""
        column_C = argmax(scores_CW)
        score_C, log_p_C = _pick(scores_CW, column_C), _pick(p_CW, column_C).log()
        return Peak(column_C + self.ids.start, score_C, _where_finite(score_C, log_p_C))

    def peak_of_logits(self, logits_CV: Tensor) -> Peak:
        """Find the peak of each row in this rank's slice of logits of any float dtype."""
        if self._peaks is None:
            scores_CW = self.columns_of(logits_CV)
            return self.peak_here(scores_CW, scores_CW.softmax(-1))
        column_C, score_C, log_p_C = self._peaks(logits_CV)
        return Peak(column_C if self.alone else column_C + self.ids.start, score_C, log_p_C)

    def peak_of_all(self, peak: Peak) -> Peak:
        """Find the peak over all slices from that of each rank's own."""
        if self.alone:
            return peak
        token_SC, score_SC, log_p_SC = self.exchange(*peak)
        # Ranks hold ascending ids, and of equal maxima the first is found.
        score_C, owner_C = score_SC.max(0)
        mass_C = _masses(score_SC, log_p_SC).sum(0)
        log_p_C = _where_finite(score_C, -mass_C.log()).float()
        return Peak(_pick(token_SC.T, owner_C).long(), score_C.float(), log_p_C)

    def best(self, scores_CW: Tensor) -> Tensor:
        """Return the id [C] of each row's best token, the lowest among equals."""
        column_C = argmax(scores_CW)
        if self.alone:
            return column_C
        score_C = _pick(scores_CW, column_C)
        token_SC, score_SC = self.exchange(column_C + self.ids.start, score_C)
        return _pick(token_SC.T, score_SC.argmax(0)).long()

    def scores_of(self, logits_RV: Tensor, rows_T: Tensor, token_T: Tensor) -> Tensor:
        """Return the logit [T] float32 of a token at each of several rows, whoever holds it."""
        if self.alone:
            return logits_RV[rows_T, token_T].float()
        mine_T = (token_T >= self.ids.start) & (token_T < self.ids.stop)
        score_T = torch.full(token_T.shape, -torch.inf, device=logits_RV.device)
        column_T = token_T[mine_T] - self.ids.start
        score_T[mine_T] = logits_RV[rows_T[mine_T], column_T].float()
        (score_ST,) = self.exchange(score_T)
        return score_ST.amax(0).float()

    def within(self, scores_CW: Tensor, p_CW: Tensor, u_C: Tensor) -> tuple[Tensor, Tensor]:
        """Find whose slice a draw falls into, the slices standing in the order of their ids.

        Args:
            scores_CW: float32.
            p_CW: float32, the softmax of this rank's columns alone.
            u_C: float64 in [0, 1).

        Returns:
            Whether it is this rank's [C], and the random number that draws within the slice [C].
        """
        if self.alone:
            return torch.ones_like(u_C, dtype=torch.bool), u_C
        mass_SC = _masses(*self.exchange(scores_CW.amax(-1), p_CW.amax(-1).log()))
        sums_CS = mass_SC.T.cumsum(-1)
        owner_C, rest_C = invert(sums_CS, u_C * sums_CS[:, -1])
        return owner_C == self._tp.rank, rest_C / mass_SC[self._tp.rank]

    def drawn(self, scores_CW: Tensor, column_C: Tensor, mine_C: Tensor) -> Tensor:
        """Return the ids [C] of drawn columns, each from the one rank that says the row is its own.

        A column at -inf becomes token 0: its row has no other.
        """
        impossible_C = _pick(scores_CW, column_C) == -torch.inf
        token_C = (column_C + self.ids.start).masked_fill(impossible_C, 0)
        if self.alone:
            return token_C
        (token_SC,) = self.exchange(token_C.masked_fill(~mine_C, -1))
        return token_SC.amax(0).long()

    def ranked(self, scores_CW: Tensor, k: int, *, lowest_id_first: bool) -> tuple[Tensor, Tensor]:
        """Return ids and scores, both [C, K], as `blocks.ranked` does for one rank's columns.

        Padding has ids beyond the vocabulary.
        """
        if self.alone:
            return ranked(scores_CW, k, lowest_id_first=lowest_id_first)
        # No rank can hold more of the likeliest k than k.
        mine = min(k, self.width)
        columns_CK, scores_CK = ranked(scores_CW, mine, lowest_id_first=lowest_id_first)
        ids_CK = columns_CK + self.ids.start + self.size * (columns_CK >= len(self.ids))
        packed = torch.stack([ids_CK.int(), scores_CK.view(torch.int32)])
        ids_CK, bits_CK = self._tp.all_gather(packed).movedim(0, -2).flatten(-2)
        ids_CK, scores_CK = in_order(
            ids_CK.long(), bits_CK.contiguous().view(torch.float32), lowest_id_first=lowest_id_first
        )
        return ids_CK[:, :k], scores_CK[:, :k]

    def exchange(self, *vectors_C: Tensor) -> tuple[Tensor, ...]:
        """Return every rank's vectors, each [S, C] float64: ids and float32 stay what they are."""
        stacked = torch.stack([vector_C.double() for vector_C in vectors_C])
        return self._tp.all_gather(stacked).unbind(1)


def _pick(x_CW: Tensor, column_C: Tensor) -> Tensor:
    return x_CW.gather(1, column_C[:, None])[:, 0]


def _where_finite(score_C: Tensor, log_p_C: Tensor) -> Tensor:
    return log_p_C.masked_fill(score_C == -torch.inf, -torch.inf)


def _masses(score_SC: Tensor, log_p_SC: Tensor) -> Tensor:
    """Return what each slice weighs [S, C] where its row's best token weighs 1.

    Args:
        score_SC: float64, of the best token in each slice; -inf where it has none.
        log_p_SC: float64, of that token within its slice.
    """
    mass_SC = (score_SC - score_SC.amax(0) - log_p_SC).exp()
    return mass_SC.masked_fill(score_SC == -torch.inf, 0.0)
