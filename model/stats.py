"""What an engine says of its work and of its memory in numbers."""

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What an engine has allocated. All bytes are those of one rank: each holds a like share.

    Attributes:
        device: "cpu" or "cuda".
        ranks: that share every layer.
        weight_bytes: parameters and buffers.
        free_bytes: of the device when the weights were in place and the KV cache was not.
        pages: of the KV cache.
        page_tokens: tokens that a page holds, for one layer group.
        page_bytes: bytes of a page.
        sequences: how many sequences of a context length, in tokens, the cache holds at a time.
    """

    device: str
    ranks: int
    weight_bytes: int
    free_bytes: int
    pages: int
    page_tokens: int
    page_bytes: int
    sequences: Mapping[int, int]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache."""
        return self.pages * self.page_bytes

    @property
    def left_bytes(self) -> int:
        """What remained free for activations, and for others."""
        return self.free_bytes - self.kv_bytes

    def __str__(self) -> str:
        """Put it in a few lines."""
        ranks = f", on each of {self.ranks} ranks" if self.ranks > 1 else ""
        held = ", ".join(f"{count} of {length}" for length, count in self.sequences.items())
        return (
            f"memory on {self.device}{ranks}\n"
            f"  weights        {_mib(self.weight_bytes)}\n"
            f"  KV cache       {_mib(self.kv_bytes)}: {self.pages} pages of {self.page_tokens} "
            f"tokens, {self.page_bytes} bytes each\n"
            f"  left           {_mib(self.left_bytes)} of {_mib(self.free_bytes)} free before\n"
            f"  sequences that fit at a time, by tokens: {held}"
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
