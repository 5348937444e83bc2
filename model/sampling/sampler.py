"""One sampling step over rows of different settings.

Shapes: R rows of the step, C rows of one chunk, V tokens of this rank, W columns (V padded to whole
blocks).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from model.transfer import ToHost, to_device

from .adjust import adjust
from .bisection import draw_by_bisection
from .draw import draw_rank, draw_token, uniform
from .filters import Limits, candidates_to_start_with, survivors, temper
from .rows import SampledToken, SamplingRow
from .vocabulary import Peak, Vocabulary

# Numbers of one temporary: a chunk stays in the caches of a CPU; on a GPU it bounds the memory.
CPU_CHUNK = 1 << 19
GPU_CHUNK = 1 << 25

_Top = tuple[tuple[int, float], ...]


class _Path(NamedTuple):
    """What a row asks for; rows of one path are computed together.

    Attributes:
        greedy: takes the best token.
        adjusted: has a bias, a penalty, a ban or a mask.
        candidates: tokens that its filters look at first; 0 without filters.
        normalized: these need the sum over the whole vocabulary.
    """

    greedy: bool
    adjusted: bool
    candidates: int
    normalized: bool

    @classmethod
    def of(cls, row: SamplingRow, vocab_size: int) -> Self:
        return cls(
            row.params.greedy,
            row.adjusted,
            candidates_to_start_with(row, vocab_size) if row.filtered else 0,
            row.params.top_k == 0 and row.params.top_p < 1.0,
        )


class _Chunk(NamedTuple):
    """Some rows of one path: where they stand in the step, their settings and their logits."""

    path: _Path
    places: list[int]
    rows: list[SamplingRow]
    logits: Tensor
    vocabulary: Vocabulary

    @property
    def best_only(self) -> bool:
        """Whether the best tokens, as the logits stand, are all that is wanted."""
        asked = any(row.params.logprobs for row in self.rows)
        return self.path.greedy and not self.path.adjusted and not asked


class Draws:
    """Tokens that are drawn, or that the device has been told to draw.

    Attributes:
        ids: [R] int64, on the device.
    """

    def __init__(self, ids: Tensor, logprobs: Tensor, tops: dict[int, _Top]) -> None:
        self.ids = ids
        self._ids, self._logprobs, self._tops = ToHost(ids), ToHost(logprobs), tops

    def wait(self) -> None:
        """Wait until the host knows them."""
        self._ids.wait()
        self._logprobs.wait()

    def tokens(self) -> list[SampledToken]:
        """Return them, once the host knows them."""
        ids, logprobs = self._ids.wait().tolist(), self._logprobs.wait().tolist()
        return [
            SampledToken(token_id, logprob, self._tops.get(i, ()))
            for i, (token_id, logprob) in enumerate(zip(ids, logprobs, strict=True))
        ]


def start_sampling(
    logits_RV: Tensor, rows: Sequence[SamplingRow], vocabulary: Vocabulary | None = None
) -> Draws:
    """Draw the next token of each row.

    A row without a single finite score (every token banned, say) gets token 0. If all rows are
    `on_device` and the vocabulary is whole, nothing waits for the device here.

    Args:
        logits_RV: [R, V] of any float dtype, softcapped; left as they are.
        rows: R rows.
        vocabulary: which tokens the logits belong to; None is all there are. Where it is cut, all
            of its ranks must call this with the same rows, and all get the same tokens.
    """
    assert len(rows) == logits_RV.shape[0], "one row of logits for each sampling row"
    vocabulary = vocabulary or Vocabulary(logits_RV.shape[1])
    tops: dict[int, _Top] = {}
    drawn = [(chunk.places, *_drawn(chunk, tops)) for chunk in _chunks(logits_RV, rows, vocabulary)]
    if len(drawn) == 1:
        return Draws(*drawn[0][1:], tops)
    ids_R = torch.empty(len(rows), dtype=torch.int64, device=logits_RV.device)
    logprobs_R = torch.empty(len(rows), dtype=torch.float32, device=logits_RV.device)
    for places, ids_C, logprobs_C in drawn:
        places_C = _indices(places, logits_RV.device)
        ids_R[places_C], logprobs_R[places_C] = ids_C, logprobs_C
    return Draws(ids_R, logprobs_R, tops)


def processed_logits(logits_RV: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Return [R, V] float32 whose softmax is what is drawn from; -inf for what can't be.

    Greedy rows are adjusted only: their token is the best of these. The vocabulary is whole.
    """
    vocabulary = Vocabulary(logits_RV.shape[1])
    processed_RV = torch.empty_like(logits_RV, dtype=torch.float32)
    for chunk in _chunks(logits_RV, rows, vocabulary):
        scores = _scores(chunk, vocabulary.columns_of(chunk.logits))
        if chunk.path.candidates:
            kept = torch.full_like(scores, -torch.inf)
            limits = _limits(chunk, scores)
            for part in survivors(scores, limits, chunk.path.candidates, vocabulary):
                values = part.scores.masked_fill(part.weights == 0.0, -torch.inf)
                kept[part.rows] = kept[part.rows].scatter(1, part.token_ids, values)
            scores = kept
        processed_RV[chunk.places] = scores[:, : logits_RV.shape[1]]
    return processed_RV


def token_logprobs(
    logits_RV: Tensor,
    targets_T: Tensor,
    rows_T: Tensor | None = None,
    vocabulary: Vocabulary | None = None,
) -> Tensor:
    """Return log p(target) [T] float32 under the logits as they are.

    Args:
        logits_RV: [R, V] of any float dtype, softcapped.
        targets_T: [T] int64 token ids; these and the next on the device of the logits.
        rows_T: [T] int64 row of each target: a row is normalized once, however many targets it
            has. None is one target for each row.
        vocabulary: as for `start_sampling`.
    """
    vocabulary = vocabulary or Vocabulary(logits_RV.shape[1])
    device = logits_RV.device
    rows_T = torch.arange(len(targets_T), device=device) if rows_T is None else rows_T
    size = _rows_at_once(logits_RV, vocabulary)
    parts = [
        vocabulary.peak_of_logits(logits_RV[start : start + size])
        for start in range(0, len(logits_RV), size)
    ]
    if not parts:
        return torch.empty(0, dtype=torch.float32, device=device)
    peak = vocabulary.peak_of_all(Peak(*(torch.cat(values) for values in zip(*parts, strict=True))))
    scores_T = vocabulary.scores_of(logits_RV, rows_T, targets_T)
    return _logprob(scores_T, Peak(*(values[rows_T] for values in peak)))


def _logprob(score: Tensor, peak: Peak) -> Tensor:
    """Return log p of a score: nothing is lost where p is tiny or the scores are large.

    -inf where the whole row is at -inf.
    """
    logprob = score - peak.score + peak.log_p
    return logprob.masked_fill(peak.score == -torch.inf, -torch.inf)


def _rows_at_once(logits_RV: Tensor, vocabulary: Vocabulary) -> int:
    numbers = CPU_CHUNK if logits_RV.device.type == "cpu" else GPU_CHUNK
    # Ranks may have different numbers of threads, but must part their rows alike.
    least = torch.get_num_threads() if vocabulary.alone else 1
    return max(numbers // vocabulary.width, least)


def _chunks(
    logits_RV: Tensor, rows: Sequence[SamplingRow], vocabulary: Vocabulary
) -> Iterator[_Chunk]:
    """Part the rows by path, then into chunks small enough for their temporaries."""
    paths: defaultdict[_Path, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        paths[_Path.of(row, vocabulary.size)].append(i)
    size = _rows_at_once(logits_RV, vocabulary)
    for path, members in paths.items():
        for start in range(0, len(members), size):
            places = members[start : start + size]
            first, last = places[0], places[-1]
            together = last - first == len(places) - 1
            picked = slice(first, last + 1) if together else _indices(places, logits_RV.device)
            logits = logits_RV if len(places) == len(rows) else logits_RV[picked]
            yield _Chunk(path, places, [rows[i] for i in places], logits, vocabulary)


def _indices(places: list[int], device: torch.device) -> Tensor:
    return to_device(np.array(places, dtype=np.int64), device)


def _scores(chunk: _Chunk, raw_CW: Tensor) -> Tensor:
    """Return raw scores adjusted and tempered: the same tensor if neither was asked for."""
    scores_CW = raw_CW
    if chunk.path.adjusted:
        scores_CW = adjust(raw_CW, chunk.rows, chunk.vocabulary.ids)
    return scores_CW if chunk.path.greedy else temper(scores_CW, chunk.rows)


def _limits(chunk: _Chunk, scores_CW: Tensor, peak: Peak | None = None) -> Limits:
    """Read the filters of tempered scores; `peak` is theirs where it is known already."""
    if chunk.path.normalized:
        peak = peak or chunk.vocabulary.peak(scores_CW, scores_CW.softmax(-1))
        highest_p_C = peak.log_p.exp()
    else:
        highest_p_C = scores_CW.new_ones(len(chunk.rows))
    return Limits.read(chunk.rows, highest_p_C)


def _drawn(chunk: _Chunk, tops: dict[int, _Top]) -> tuple[Tensor, Tensor]:
    """Draw [C] ids; return them and their log p; put what is asked for into `tops`."""
    vocabulary = chunk.vocabulary
    if chunk.best_only:
        peak = vocabulary.peak_of_all(vocabulary.peak_of_logits(chunk.logits))
        return peak.token, peak.log_p
    raw_CW = vocabulary.columns_of(chunk.logits)
    p_CW = raw_CW.softmax(-1)
    peak = vocabulary.peak(raw_CW, p_CW)
    tops.update(_tops(chunk, raw_CW, peak))
    ids_C = _tokens(chunk, raw_CW, p_CW, peak)
    if ids_C is peak.token:
        return ids_C, peak.log_p
    rows_C = torch.arange(len(ids_C), device=ids_C.device)
    return ids_C, _logprob(vocabulary.scores_of(raw_CW, rows_C, ids_C), peak)


def _tokens(chunk: _Chunk, raw_CW: Tensor, p_CW: Tensor, peak: Peak) -> Tensor:
    """Draw [C] ids; the very tensor of the peak's where these are the best tokens as they stand.

    Args:
        chunk: the rows.
        raw_CW: [C, W] float32 logits.
        p_CW: [C, W] their softmax over the columns of this rank.
        peak: their best.
    """
    vocabulary = chunk.vocabulary
    scores_CW = _scores(chunk, raw_CW)
    unchanged = scores_CW is raw_CW
    if chunk.path.greedy:
        return peak.token if unchanged else vocabulary.best(scores_CW)
    u_C = to_device(np.array([uniform(row.seed, row.step) for row in chunk.rows]), p_CW.device)
    if chunk.path.candidates:
        return _from_candidates(chunk, scores_CW, u_C, peak if unchanged else None)
    if not unchanged:
        p_CW = scores_CW.softmax(-1)
    mine_C, u_C = vocabulary.within(scores_CW, p_CW, u_C)
    column_C = draw_token(p_CW, u_C)
    return vocabulary.drawn(scores_CW, column_C, mine_C)


def _from_candidates(chunk: _Chunk, scores_CW: Tensor, u_C: Tensor, peak: Peak | None) -> Tensor:
    """Draw [C] ids from what the filters leave; `peak` as for `_limits`."""
    limits, vocabulary = _limits(chunk, scores_CW, peak), chunk.vocabulary
    ids_C = torch.full((len(chunk.rows),), -1, device=scores_CW.device)
    for part in survivors(scores_CW, limits, chunk.path.candidates, vocabulary):
        rank_S1 = draw_rank(part.weights, u_C[part.rows])[:, None]
        nothing_left_S1 = part.scores.gather(1, rank_S1) == -torch.inf
        drawn_S1 = part.token_ids.gather(1, rank_S1).masked_fill(nothing_left_S1, 0)
        ids_C[part.rows] = drawn_S1[:, 0]
    left = (ids_C < 0).nonzero()[:, 0]
    if len(left):
        ids_C[left] = draw_by_bisection(scores_CW[left], u_C[left], limits.of(left), vocabulary)
    return ids_C


def _tops(chunk: _Chunk, raw_CW: Tensor, peak: Peak) -> Iterator[tuple[int, _Top]]:
    """Yield (place in the step, top) of the rows that ask for one."""
    asked = [i for i, row in enumerate(chunk.rows) if row.params.logprobs]
    if not asked:
        return
    most = max(chunk.rows[i].params.logprobs or 0 for i in asked)
    ids, values = _best(raw_CW[asked], min(most, chunk.vocabulary.size), chunk.vocabulary)
    logprobs = _logprob(values, Peak(*(numbers[asked, None] for numbers in peak)))
    for i, best, numbers in zip(asked, ids.tolist(), logprobs.tolist(), strict=True):
        n = chunk.rows[i].params.logprobs or 0
        yield chunk.places[i], tuple(zip(best[:n], numbers[:n], strict=True))


def _best(raw_CW: Tensor, n: int, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return ids and scores [C, n] of the best, the lowest id first among equals."""
    candidates = min(2 * n, vocabulary.columns)
    while True:
        ids, values = vocabulary.ranked(raw_CW, candidates, lowest_id_first=True)
        if candidates == vocabulary.columns or bool((values[:, n - 1] > values[:, -1]).all()):
            return ids[:, :n], values[:, :n]
        candidates = min(8 * candidates, vocabulary.columns)
