"""What a step asks of its logits: the same on every rank, as each answers for its own tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from model.batch import Ints, are_all
from model.constrain import Masks
from model.sampling import (
    Draws,
    SampledToken,
    SamplingRow,
    Vocabulary,
    start_sampling,
    token_logprobs,
)
from model.transfer import ToHost, to_device


class LogitAnswers(NamedTuple):
    """A token for each draw, and log p of each target; None where nothing is drawn or targeted."""

    draws: Draws | None
    targets: ToHost | None

    @property
    def drawn(self) -> Tensor | None:
        """The ids [D] int64 of the drawn tokens, on the device."""
        return self.draws.ids if self.draws is not None else None

    def wait(self) -> None:
        """Wait until the host knows them."""
        if self.draws is not None:
            self.draws.wait()
        if self.targets is not None:
            self.targets.wait()

    def tokens(self) -> list[SampledToken]:
        """Return a token for each draw, once the host knows them."""
        return self.draws.tokens() if self.draws is not None else []

    def logprobs(self) -> list[float]:
        """Return log p of each target, once the host knows them."""
        return self.targets.wait().tolist() if self.targets is not None else []


@dataclass(frozen=True, slots=True)
class LogitQueries:
    """Draws and targets at the R rows of a step's logits.

    Attributes:
        draws_at: [D] the row that each draw is made from.
        draws: D settings.
        targets_at: [T] the row of each target.
        targets: [T] token ids whose log-probability is wanted.
        masks: of the draws that have any, maybe still on their way.
    """

    draws_at: Ints
    draws: Sequence[SamplingRow]
    targets_at: Ints
    targets: Ints
    masks: Masks | None = None

    def portable(self) -> "LogitQueries":
        """Return the same without what no rank reads: what is sent to the others.

        Masks travel in their rows, so they are waited for.
        """
        if self.masks is not None:
            self.masks.wait()
        draws = [row.portable() for row in self.draws]
        return LogitQueries(self.draws_at, draws, self.targets_at, self.targets)

    @property
    def on_device(self) -> bool:
        """Whether all draws can be made, and gone on from, with nothing read by the host."""
        return all(row.on_device for row in self.draws)

    def answer(self, logits: Tensor, vocabulary: Vocabulary) -> LogitAnswers:
        """Answer, together with the other ranks of the vocabulary.

        Args:
            logits: [R, V] of this rank's tokens.
            vocabulary: which tokens these are.
        """
        if self.masks is not None:
            self.masks.wait()
        return LogitAnswers(self._draws(logits, vocabulary), self._logprobs(logits, vocabulary))

    def _draws(self, logits: Tensor, vocabulary: Vocabulary) -> Draws | None:
        if not len(self.draws):
            return None
        if not are_all(self.draws_at, logits.shape[0]):
            logits = logits[to_device(self.draws_at, logits.device)]
        return start_sampling(logits, self.draws, vocabulary)

    def _logprobs(self, logits: Tensor, vocabulary: Vocabulary) -> ToHost | None:
        if not len(self.targets):
            return None
        targets = to_device(self.targets, logits.device)
        rows = to_device(self.targets_at, logits.device)
        return ToHost(token_logprobs(logits, targets, rows, vocabulary))
