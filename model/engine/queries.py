"""What a step asks of its logits: the same on every rank, as each answers for its own tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.sampling import SampledToken, SamplingRow, Vocabulary, sample, token_logprobs

Ints = npt.NDArray[np.int64]


class LogitAnswers(NamedTuple):
    """A token for each draw, and log p of each target."""

    tokens: list[SampledToken]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class LogitQueries:
    """Draws and targets at the R rows of a step's logits.

    Attributes:
        draws_at: [D] the row that each draw is made from.
        draws: D settings.
        targets_at: [T] the row of each target.
        targets: [T] token ids whose log-probability is wanted.
    """

    draws_at: Ints
    draws: Sequence[SamplingRow]
    targets_at: Ints
    targets: Ints

    def portable(self) -> "LogitQueries":
        """Return the same without what no rank reads: what is sent to the others."""
        draws = [row.portable() for row in self.draws]
        return LogitQueries(self.draws_at, draws, self.targets_at, self.targets)

    def answer(self, logits: Tensor, vocabulary: Vocabulary) -> LogitAnswers:
        """Answer, together with the other ranks of the vocabulary.

        Args:
            logits: [R, V] of this rank's tokens.
            vocabulary: which tokens these are.
        """
        return LogitAnswers(self._tokens(logits, vocabulary), self._logprobs(logits, vocabulary))

    def _tokens(self, logits: Tensor, vocabulary: Vocabulary) -> list[SampledToken]:
        if not len(self.draws):
            return []
        if not np.array_equal(self.draws_at, np.arange(len(logits))):
            logits = logits[torch.from_numpy(self.draws_at).to(logits.device)]
        return sample(logits, self.draws, vocabulary)

    def _logprobs(self, logits: Tensor, vocabulary: Vocabulary) -> list[float]:
        if not len(self.targets):
            return []
        targets, rows = torch.from_numpy(self.targets), torch.from_numpy(self.targets_at)
        logprobs: list[float] = token_logprobs(logits, targets, rows, vocabulary).tolist()
        return logprobs
