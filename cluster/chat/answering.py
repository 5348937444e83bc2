"""Who answers a chat: an engine in this process, or an endpoint elsewhere."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model.errors import GemmarayError

Message = dict[str, str]


class AnswerError(GemmarayError):
    """A message got no answer, or not all of it; the chat can go on."""


class TooLongError(AnswerError):
    """The chat leaves no room for an answer."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an answer ended.

    Attributes:
        cut: it reached a limit of tokens, and might have gone on.
    """

    cut: bool


class Answerer(Protocol):
    """A model to chat with.

    Attributes:
        name: how it is called.
    """

    name: str

    def answer(
        self, messages: Sequence[Message], settings: Mapping[str, Any]
    ) -> AsyncGenerator[str | Ending, None]:
        """Answer the last message piece by piece; an Ending comes last.

        Leaving the iteration early ends the work.

        Args:
            messages: of user and assistant by turns.
            settings: fields of SamplingParams that have another value than their default.

        Raises:
            GemmarayError: on iteration, what is wrong with the messages or with the model.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...
