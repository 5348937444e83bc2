"""Under what terms a model is asked: whose request it is, and how much it may ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.calls import REFUSED, Ask, Call, Prompt
from model.long_texts import LongTexts

from .errors import bad_request
from .settings import Limits


@dataclass(frozen=True, slots=True)
class Terms:
    """What all calls of a caller have in common.

    Attributes:
        limits: what one request may take.
        salt: of the caller's prefixes; see access.Caller.
    """

    limits: Limits
    salt: bytes

    def call(
        self,
        prompts: Sequence[Prompt],
        asks: Sequence[Ask],
        *,
        choices: int = 1,
        with_text: bool = False,
        long_texts: LongTexts = REFUSED,
    ) -> Call:
        """Make a call to a model.

        Args:
            prompts: of the request.
            asks: of each of them.
            choices: answers to each.
            with_text: whether the texts of the prompts are wanted.
            long_texts: what becomes of prompts that are too long.

        Raises:
            ApiError: it asks for too much.
        """
        limits = self.limits
        if len(prompts) > limits.max_prompts:
            raise bad_request(f"{len(prompts)} inputs; {limits.max_prompts} is the limit")
        if len(prompts) * choices > limits.max_choices:
            raise bad_request(
                f"{len(prompts)} inputs with {choices} answers each; {limits.max_choices} answers "
                "are the limit",
                param="n",
            )
        return Call(
            tuple(prompts),
            tuple(asks),
            self.salt,
            with_text=with_text,
            long_texts=long_texts,
            max_windows=limits.max_prompts,
        )
