"""Requests without a model: they write as many tokens as they are told."""

import random
from collections.abc import Sequence as Items

from model.batch import LayerKind
from model.engine.admission import Admission
from model.engine.scheduler import Scheduler
from model.engine.sequence import Chunk, Continuation, Sequence
from model.engine.step import StepPlan
from model.prefix_cache import page_digests

PAGE = 4
WINDOW = 6
WINDOWS: dict[LayerKind, int | None] = {"full_attention": None, "sliding_attention": WINDOW}


class Writer:
    """Appends a token per step until it has written enough; stands in for a completion."""

    def __init__(self, left: int) -> None:
        self.left = left

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None: ...

    def continuations(self) -> list[Continuation]:
        self.left -= 1
        return [(self, [1])] if self.left > 0 else []


class Prompt:
    """Branches into writers."""

    def __init__(self, writes: list[int]) -> None:
        self.writes = writes

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None: ...

    def continuations(self) -> list[Continuation]:
        return [(Writer(count), [1]) for count in self.writes]


def admit(
    scheduler: Scheduler, name: str, tokens: Items[int], writes: list[int], *, reuse: bool = True
) -> Admission | None:
    """Queue a request; None if an empty engine has no room for it."""
    cache = scheduler.cache
    digests = page_digests(tokens, cache.page_size)
    admission = Admission(
        name,
        Sequence(name, list(tokens), cache.new_sequence(), Prompt(writes), is_prompt=True),
        prompt_tokens=len(tokens),
        branches=writes,
        digests=digests,
        reusable=min(len(digests), (len(tokens) - 1) // cache.page_size) if reuse else 0,
    )
    pages = cache.demand(len(tokens), scheduler.max_batch_tokens, writes)
    if pages > cache.pool.num_pages or admission.width > scheduler.max_sequences:
        return None
    scheduler.add(admission)
    return admission


def unlike(count: int, seed: object) -> list[int]:
    """Tokens that share no page with those of another seed."""
    rng = random.Random(f"{seed}")
    return [rng.randrange(1 << 30) for _ in range(count)]


def step(scheduler: Scheduler) -> list[Chunk]:
    """Do what the engine does in a step, but for the model."""
    chunks = scheduler.schedule()
    for chunk in chunks:
        scheduler.cache.extend(chunk.sequence.cache, chunk.count)
    for chunk in chunks:
        scheduler.complete(chunk)
    return chunks
