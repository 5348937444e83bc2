"""One sampling step over rows of different settings.

Shapes: R rows of the step, C rows of one chunk, V tokens, W columns (V padded to whole blocks).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .adjust import adjust
from .blocks import argmax, ranked, whole_blocks
from .draw import draw_rank, draw_token, uniform
from .filters import Survivors, candidates_to_start_with, survivors, temper
from .rows import SampledToken, SamplingRow

# Numbers of one temporary: a chunk stays in the caches of a CPU; on a GPU it bounds the memory.
CPU_CHUNK = 1 << 19
GPU_CHUNK = 1 << 25


class _Path(NamedTuple):
    """What a row asks for; rows of one path are computed together.

    Attributes:
        greedy: takes the best token.
        adjusted: has a bias, a penalty or a ban.
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


def sample(logits_RV: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken]:
    """Draw the next token of each row.

    A row without a single finite score (every token banned, say) gets token 0.

    Args:
        logits_RV: [R, V] of any float dtype, softcapped; left as they are.
        rows: R rows.
    """
    assert len(rows) == logits_RV.shape[0], "one row of logits for each sampling row"
    ids_R = torch.empty(len(rows), dtype=torch.int64, device=logits_RV.device)
    logprobs_R = torch.empty(len(rows), dtype=torch.float32, device=logits_RV.device)
    tops: dict[int, tuple[tuple[int, float], ...]] = {}
    for chunk in _chunks(logits_RV, rows):
        places_C = torch.tensor(chunk.places, device=logits_RV.device)
        raw_CW = whole_blocks(chunk.logits)
        p_CW = raw_CW.softmax(-1)
        best_C = argmax(raw_CW)
        ids_C = _tokens(chunk, raw_CW, p_CW, best_C)
        best_C1 = best_C[:, None]
        highest_C1, log_highest_p_C1 = raw_CW.gather(1, best_C1), p_CW.gather(1, best_C1).log()
        logprobs_C1 = _logprob(raw_CW.gather(1, ids_C[:, None]), highest_C1, log_highest_p_C1)
        ids_R[places_C], logprobs_R[places_C] = ids_C, logprobs_C1[:, 0]
        tops.update(_tops(chunk, raw_CW, highest_C1, log_highest_p_C1))
    return [
        SampledToken(token_id, logprob, tops.get(i, ()))
        for i, (token_id, logprob) in enumerate(
            zip(ids_R.tolist(), logprobs_R.tolist(), strict=True)
        )
    ]


def processed_logits(logits_RV: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Return [R, V] float32 whose softmax is what `sample` draws from; -inf for what it can't.

    Greedy rows are adjusted only: their token is the best of these.
    """
    processed_RV = torch.empty_like(logits_RV, dtype=torch.float32)
    for chunk in _chunks(logits_RV, rows):
        scores = _scores(chunk, whole_blocks(chunk.logits))
        if chunk.path.candidates:
            kept = torch.full_like(scores, -torch.inf)
            for part in _survivors(chunk, scores):
                values = part.scores.masked_fill(part.weights == 0.0, -torch.inf)
                kept[part.rows] = kept[part.rows].scatter(1, part.columns, values)
            scores = kept
        processed_RV[chunk.places] = scores[:, : logits_RV.shape[1]]
    return processed_RV


def token_logprobs(logits_RV: Tensor, targets_T: Tensor, rows_T: Tensor | None = None) -> Tensor:
    """Return log p(target) [T] float32 under the logits as they are.

    Args:
        logits_RV: [R, V] of any float dtype, softcapped.
        targets_T: [T] int64 token ids.
        rows_T: [T] int64 row of each target: a row is normalized once, however many targets it
            has. None is one target for each row.
    """
    device = logits_RV.device
    targets_T = targets_T.to(device)
    rows_T = torch.arange(len(targets_T), device=device) if rows_T is None else rows_T.to(device)
    highest_R = torch.empty(len(logits_RV), dtype=torch.float32, device=device)
    log_highest_p_R = torch.empty_like(highest_R)
    size = _rows_at_once(logits_RV)
    for start in range(0, len(logits_RV), size):
        chunk = slice(start, start + size)
        logits_CV = logits_RV[chunk].float()
        highest_R[chunk] = logits_CV.amax(-1)
        log_highest_p_R[chunk] = logits_CV.log_softmax(-1).amax(-1)
    scores_T = logits_RV[rows_T, targets_T].float()
    return _logprob(scores_T, highest_R[rows_T], log_highest_p_R[rows_T])


def _logprob(score: Tensor, highest: Tensor, log_highest_p: Tensor) -> Tensor:
    """Return log p of a score: nothing is lost where p is tiny or the scores are large.

    -inf where the whole row is at -inf.
    """
    return (score - highest + log_highest_p).masked_fill(highest == -torch.inf, -torch.inf)


def _rows_at_once(logits_RV: Tensor) -> int:
    numbers = CPU_CHUNK if logits_RV.device.type == "cpu" else GPU_CHUNK
    return max(numbers // logits_RV.shape[1], torch.get_num_threads())


def _chunks(logits_RV: Tensor, rows: Sequence[SamplingRow]) -> Iterator[_Chunk]:
    """Part the rows by path, then into chunks small enough for their temporaries."""
    paths: defaultdict[_Path, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        paths[_Path.of(row, logits_RV.shape[1])].append(i)
    size = _rows_at_once(logits_RV)
    for path, members in paths.items():
        for start in range(0, len(members), size):
            places = members[start : start + size]
            first, last = places[0], places[-1]
            together = last - first == len(places) - 1
            logits = logits_RV[first : last + 1] if together else logits_RV[places]
            yield _Chunk(path, places, [rows[i] for i in places], logits)


def _scores(chunk: _Chunk, raw_CW: Tensor) -> Tensor:
    """Return raw scores adjusted and tempered: the same tensor if neither was asked for."""
    scores_CW = raw_CW
    if chunk.path.adjusted:
        scores_CW = adjust(raw_CW, chunk.rows, chunk.logits.shape[1])
    return scores_CW if chunk.path.greedy else temper(scores_CW, chunk.rows)


def _survivors(chunk: _Chunk, scores_CW: Tensor, p_CW: Tensor | None = None) -> Iterator[Survivors]:
    """Filter tempered scores; p_CW is their softmax where it is known already."""
    if chunk.path.normalized:
        highest_p_C = (scores_CW.softmax(-1) if p_CW is None else p_CW).amax(-1)
    else:
        highest_p_C = scores_CW.new_ones(len(chunk.rows))
    return survivors(scores_CW, highest_p_C, chunk.rows, chunk.path.candidates)


def _tokens(chunk: _Chunk, raw_CW: Tensor, p_CW: Tensor, best_C: Tensor) -> Tensor:
    """Draw [C] ids.

    Args:
        chunk: the rows.
        raw_CW: [C, W] float32 logits.
        p_CW: [C, W] their softmax.
        best_C: [C] their best columns.
    """
    scores_CW = _scores(chunk, raw_CW)
    unchanged = scores_CW is raw_CW
    if chunk.path.greedy:
        return best_C if unchanged else argmax(scores_CW)
    u_C = p_CW.new_tensor([uniform(row.seed, row.step) for row in chunk.rows], dtype=torch.float64)
    if chunk.path.candidates:
        ids_C = torch.empty_like(best_C)
        for part in _survivors(chunk, scores_CW, p_CW if unchanged else None):
            rank = draw_rank(part.weights, u_C[part.rows])
            ids_C[part.rows] = part.columns.gather(1, rank[:, None])[:, 0]
    else:
        ids_C = draw_token(p_CW if unchanged else scores_CW.softmax(-1), u_C)
    nothing_left = scores_CW.gather(1, ids_C[:, None])[:, 0] == -torch.inf
    return ids_C.masked_fill(nothing_left, 0)


def _tops(
    chunk: _Chunk, raw_CW: Tensor, highest_C1: Tensor, log_highest_p_C1: Tensor
) -> Iterator[tuple[int, tuple[tuple[int, float], ...]]]:
    """Yield (place in the step, top) of the rows that ask for one."""
    asked = [i for i, row in enumerate(chunk.rows) if row.params.logprobs]
    if not asked:
        return
    most = max(chunk.rows[i].params.logprobs or 0 for i in asked)
    columns, values = _best(raw_CW[asked], min(most, chunk.logits.shape[1]))
    logprobs = _logprob(values, highest_C1[asked], log_highest_p_C1[asked])
    for i, ids, numbers in zip(asked, columns.tolist(), logprobs.tolist(), strict=True):
        n = chunk.rows[i].params.logprobs or 0
        yield chunk.places[i], tuple(zip(ids[:n], numbers[:n], strict=True))


def _best(raw_CW: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return columns and values [C, n] of the best, the lowest id first among equals."""
    width = raw_CW.shape[1]
    candidates = min(2 * n, width)
    while True:
        columns, values = ranked(raw_CW, candidates, lowest_id_first=True)
        if candidates == width or bool((values[:, n - 1] > values[:, -1]).all()):
            return columns[:, :n], values[:, :n]
        candidates = min(8 * candidates, width)
