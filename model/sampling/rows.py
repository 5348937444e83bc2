"""What the sampler is told of each sequence, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.errors import ParameterError
from model.params import SamplingParams

TokenIds = Sequence[int] | npt.NDArray[np.int64]


@dataclass(slots=True)
class SamplingRow:
    """One sequence that wants a token.

    Attributes:
        params: how its tokens are drawn.
        seed: in [0, 2**64); with `step` it decides the draw.
        step: tokens generated before this one.
        prompt_ids: read only with a repetition penalty; an int64 array is not copied.
        output_ids: the tokens generated so far; read only with penalties.
        banned: ids that may not be drawn now (end tokens while fewer than min_tokens are out).
        mask: [ceil(V / 8)] uint8, a bit for each token that may be drawn now, the lowest first; at
            least one is set. None is all of them. It may be filled in until the row is drawn from.
    """

    params: SamplingParams
    seed: int = 0
    step: int = 0
    prompt_ids: TokenIds = ()
    output_ids: TokenIds = ()
    banned: tuple[int, ...] = ()
    mask: npt.NDArray[np.uint8] | None = None

    @property
    def adjusted(self) -> bool:
        """True when scores of single tokens change: a bias, a penalty, a ban or a mask."""
        p = self.params
        return bool(
            self.banned
            or self.mask is not None
            or p.logit_bias
            or p.repetition_penalty != 1.0
            or p.presence_penalty
            or p.frequency_penalty
        )

    @property
    def filtered(self) -> bool:
        """True when its likeliest tokens must be found in their order: top_k, top_p or min_p."""
        p = self.params
        return not p.greedy and (p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0)

    @property
    def on_device(self) -> bool:
        """True when its token is drawn, and the next one too, with nothing read by the host.

        Penalties and masks need to know which tokens came before; how many of the likeliest tokens
        the filters and the list of the likeliest have to look at is decided on the way.
        """
        p = self.params
        penalized = p.repetition_penalty != 1.0 or p.presence_penalty or p.frequency_penalty
        return not (penalized or self.filtered or p.logprobs or self.mask is not None)

    def portable(self) -> "SamplingRow":
        """Return the row with the tokens that its settings read, and no others."""
        p = self.params
        repetition = p.repetition_penalty != 1.0
        counted = repetition or bool(p.presence_penalty or p.frequency_penalty)
        prompt_ids = self.prompt_ids if repetition else ()
        output_ids = self.output_ids if counted else ()
        return SamplingRow(p, self.seed, self.step, prompt_ids, output_ids, self.banned, self.mask)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A drawn token.

    Attributes:
        logprob: the model's own log p(token): before bias, penalties, bans, masks and temperature.
        top: (id, logprob) of the `params.logprobs` likeliest tokens, best first, the lowest id
            first among equals.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def check_token_ids(params: SamplingParams, vocab_size: int) -> None:
    """Refuse settings that name tokens which the vocabulary lacks.

    The sampler itself passes over such ids, so this belongs where a request is accepted.

    Raises:
        ParameterError: naming the setting, the id and the vocabulary's size.
    """
    for setting, ids in (
        ("logit_bias", params.logit_bias),
        ("stop_token_ids", params.stop_token_ids),
    ):
        highest = max(ids, default=0)
        if highest >= vocab_size:
            raise ParameterError(
                f"{setting}: there is no token {highest}; ids go from 0 to {vocab_size - 1}"
            )
