"""Draws that are waited for."""

from collections.abc import Sequence

from torch import Tensor

from model.sampling import SampledToken, SamplingRow, Vocabulary, start_sampling


def sample(
    logits: Tensor, rows: Sequence[SamplingRow], vocabulary: Vocabulary | None = None
) -> list[SampledToken]:
    """Draw the next token of each row, as `start_sampling`, and wait for it."""
    return start_sampling(logits, rows, vocabulary).tokens()
