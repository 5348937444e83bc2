"""Requests without a model: they write as many tokens as they are told."""

from __future__ import annotations

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
TOKEN = 1
WINDOWS: dict[LayerKind, int | None] = {"full_attention": None, "sliding_attention": WINDOW}


class Writer:
    """Draws a token per step until it has drawn enough; stands in for a completion.

    Args:
        most: tokens that it stores at most; the one drawn last is not stored.
        ends: it ends with this draw if it comes, which nobody knows beforehand.
    """

    def __init__(self, most: int, ends: int | None = None) -> None:
        self.limit = most + 1
        self.last = self.limit if ends is None else min(self.limit, ends)
        self.asked = self.drawn = 0

    @property
    def done(self) -> bool:
        return self.drawn == self.last

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        if chunk.last:
            self.asked += 1

    def accept(self) -> None:
        """Take a token that was drawn, unless it was drawn in vain."""
        self.drawn += not self.done

    def continuations(self) -> list[Continuation]:
        return [] if self.done else [(self, [TOKEN])]

    def carry(self) -> Writer | None:
        return self if self.asked < self.limit else None


class Prompt:
    """Branches into writers."""

    def __init__(self, writers: list[Writer]) -> None:
        self.writers = writers

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        for writer in self.writers:
            writer.want(plan, chunk, row)

    def accept(self) -> None:
        for writer in self.writers:
            writer.accept()

    def continuations(self) -> list[Continuation]:
        return [branch for writer in self.writers for branch in writer.continuations()]

    def carry(self) -> Writer | None:
        return self.writers[0].carry() if len(self.writers) == 1 else None


Draw = tuple[Chunk, Prompt | Writer]


def admit(
    scheduler: Scheduler,
    name: str,
    tokens: Items[int],
    writes: list[int],
    *,
    reuse: bool = True,
    ends: int | None = None,
) -> Admission | None:
    """Queue a request; None if an empty engine has no room for it."""
    cache = scheduler.cache
    digests = page_digests(tokens, cache.page_size)
    reader = Prompt([Writer(most, ends) for most in writes])
    admission = Admission(
        name,
        Sequence(name, list(tokens), cache.new_sequence(), reader, is_prompt=True),
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
    settle(scheduler, launch(scheduler, chunks))
    return chunks


def launch(scheduler: Scheduler, chunks: list[Chunk], *, carry: bool = False) -> list[Draw]:
    """Do what the engine does when a step is launched; returns who gets a token of it."""
    draws = []
    for place, chunk in enumerate(chunks):
        reader = chunk.sequence.reader
        assert isinstance(reader, Prompt | Writer)
        reader.want(StepPlan(), chunk, 0)
        draws.append((chunk, reader))
        scheduler.launched(chunk)
        writer = reader.carry() if carry and chunk.last else None
        if writer is not None:
            chunk.sequence.carry(writer, place)
    return draws


def settle(scheduler: Scheduler, draws: list[Draw]) -> None:
    """Do what the engine does when a step's values are known."""
    for chunk, reader in draws:
        if chunk.last:
            reader.accept()
    for chunk, _ in draws:
        scheduler.settle(chunk)
