"""What an engine says of its work in numbers."""

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """What an engine has done since it was built, and what it holds now.

    Attributes:
        steps: forward passes.
        prompt_tokens: prompt tokens computed.
        prefix_queried_tokens: prompt tokens, in whole pages, that might have been computed before.
        prefix_hit_tokens: those of them that were, and were not computed again.
        output_tokens: tokens drawn, as far as they became part of an answer.
        finished: requests that ended.
        running: requests that hold pages now.
        waiting: requests that wait for pages, or for a constraint to be compiled.
        pages_held: pages of keys and values that requests hold; those that are only kept for
            prompts to come don't count.
        pages: pages that there are.
    """

    steps: int = 0
    prompt_tokens: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    output_tokens: int = 0
    finished: int = 0
    running: int = 0
    waiting: int = 0
    pages_held: int = 0
    pages: int = 0
