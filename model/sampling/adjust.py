"""Bias, penalties, bans and masks: changes to the scores of single tokens of each row.

Bans and masks come last: what they forbid stands at -inf, whatever else is asked for it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.transfer import to_device

from .rows import SamplingRow, TokenIds


class _Edits(NamedTuple):
    """A number for each of E tokens; `where` counts through the flattened scores."""

    where: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return to_device(self.where, device), to_device(self.values, device)


def adjust(scores_RW: Tensor, rows: Sequence[SamplingRow], ids: range) -> Tensor:
    """Return scores with logit bias, penalties, bans and masks applied, in this order.

    Args:
        scores_RW: [R, W] float32, contiguous; left as it is.
        rows: R rows.
        ids: of the first columns; other tokens are passed over: another rank's, or none at all.

    Returns:
        [R, W] float32; what is banned or not in its row's mask stands at -inf.
    """
    adjusted = scores_RW.clone()
    flat = adjusted.view(-1)
    width, device = scores_RW.shape[1], scores_RW.device

    bias = _biases(rows, width, ids)
    if bias.where.size:
        where, values = bias.on(device)
        flat[where] += values

    repetition = _repetitions(rows, width, ids)
    if repetition.where.size:
        where, penalty = repetition.on(device)
        seen = flat[where]
        # A token that occurs twice is written twice with the same number: penalized once.
        flat[where] = torch.where(seen < 0, seen * penalty, seen / penalty)

    occurrence = _occurrences(rows, width, ids)
    if occurrence.where.size:
        where, values = occurrence.on(device)
        flat[where] -= values

    bans = _bans(rows, width, ids)
    if bans.where.size:
        where, values = bans.on(device)
        flat[where] = values

    if any(row.mask is not None for row in rows):
        adjusted[:, : len(ids)].masked_fill_(_forbidden(rows, ids, device), -torch.inf)
    return adjusted


def _forbidden(rows: Sequence[SamplingRow], ids: range, device: torch.device) -> Tensor:
    """Return [R, len(ids)] bool: what the masks leave out."""
    row_bytes = next(len(row.mask) for row in rows if row.mask is not None)
    nothing = np.zeros(row_bytes, dtype=np.uint8)
    packed = np.stack([nothing if row.mask is None else ~row.mask for row in rows])
    if device.type == "cpu":
        bits = torch.from_numpy(np.unpackbits(packed, axis=1, bitorder="little"))
    else:  # a bit for each token crosses the bus, not a byte
        bits = unpacked(to_device(packed, device))
    return bits[:, ids.start : ids.stop].view(torch.bool)


def unpacked(packed_RB: Tensor) -> Tensor:
    """Return the bits [R, 8 * B] of bytes [R, B], each byte's lowest first; uint8 both."""
    places = torch.arange(8, dtype=torch.uint8, device=packed_RB.device)
    return ((packed_RB[:, :, None] >> places) & 1).flatten(1)


def _edits(parts: Iterable[tuple[int, TokenIds, object]], width: int, ids: range) -> _Edits:
    """Join (row, token ids, one value or a value per id), leaving out tokens without a column."""
    wheres, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for row, token_ids, value in parts:
        columns = np.asarray(token_ids, dtype=np.int64) - ids.start
        known = (columns >= 0) & (columns < len(ids))
        wheres.append(row * width + columns[known])
        values.append(np.broadcast_to(np.asarray(value, np.float32), columns.shape)[known])
    return _Edits(np.concatenate(wheres), np.concatenate(values))


def _biases(rows: Sequence[SamplingRow], width: int, ids: range) -> _Edits:
    biases = [(i, row.params.logit_bias) for i, row in enumerate(rows) if row.params.logit_bias]
    return _edits(((i, [*bias], [*bias.values()]) for i, bias in biases), width, ids)


def _repetitions(rows: Sequence[SamplingRow], width: int, ids: range) -> _Edits:
    parts = (
        (i, token_ids, row.params.repetition_penalty)
        for i, row in enumerate(rows)
        if row.params.repetition_penalty != 1.0
        for token_ids in (row.prompt_ids, row.output_ids)
    )
    return _edits(parts, width, ids)


def _occurrences(rows: Sequence[SamplingRow], width: int, ids: range) -> _Edits:
    """What presence and frequency penalties take away: presence + frequency * count.

    The definition: https://platform.openai.com/docs/api-reference/completions/create, and vLLM's
    `apply_penalties`. Only generated tokens count.
    """

    def parts() -> Iterable[tuple[int, TokenIds, object]]:
        for i, row in enumerate(rows):
            presence, frequency = row.params.presence_penalty, row.params.frequency_penalty
            if presence or frequency:
                output_ids = np.asarray(row.output_ids, dtype=np.int64)
                seen, counts = np.unique(output_ids, return_counts=True)
                yield i, seen, presence + frequency * counts

    return _edits(parts(), width, ids)


def _bans(rows: Sequence[SamplingRow], width: int, ids: range) -> _Edits:
    parts = ((i, row.banned, -np.inf) for i, row in enumerate(rows) if row.banned)
    return _edits(parts, width, ids)
