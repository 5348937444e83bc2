"""Counts the tokens of a stream."""

from typing import assert_never

from actors.calls import Added, Ended
from cluster.serve.protocol.base import FinishReason, Usage
from cluster.serve.server import Ticket
from model.outputs import FinishReason as EngineReason


class Tally:
    """Tokens so far.

    Args:
        ticket: of the request; tokens are counted in the server's metrics, too.
    """

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._prompt = 0
        self._completion = 0

    def added(self, event: Added) -> None:
        """Count generated tokens."""
        count = len(event.delta.token_ids)
        self._completion += count
        self._ticket.count_completions(count)

    def ended(self, event: Ended) -> None:
        """Count the tokens of a prompt."""
        self._prompt += event.prompt_tokens
        self._ticket.count_prompts(event.prompt_tokens)

    @property
    def usage(self) -> Usage:
        """All of them."""
        return Usage.of(self._prompt, self._completion)


def finish_reason(reason: EngineReason) -> FinishReason:
    """Say how an answer ended, as OpenAI does."""
    match reason:
        case "stop" | "length":
            return reason
        case "abort":
            raise AssertionError("an aborted request has no answer")
        case _:
            assert_never(reason)
