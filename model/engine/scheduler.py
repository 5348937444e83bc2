"""Who computes how many tokens in the next step. Plain Python, no tensors.

A request is admitted only when the pages and the places that it can ever need are free: lengths
are known beforehand, so nothing is ever preempted and nothing is computed twice. Each step serves
decodes first, then prompts that were begun, then new ones, within a fixed budget of tokens.
"""

from collections import deque
from collections.abc import Iterator

from model.hybrid_cache import HybridCache

from .sequence import Admission, Chunk, Reader, Sequence


class Scheduler:
    """Continuous batching under a token budget, first come first served.

    Args:
        cache: the pages that sequences are admitted against.
        max_batch_tokens: tokens that a step computes at most.
        max_sequences: sequences that are held at the same time at most.
    """

    def __init__(self, cache: HybridCache, max_batch_tokens: int, max_sequences: int) -> None:
        self.cache = cache
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.waiting: deque[Admission] = deque()
        self.running: dict[str, Admission] = {}
        self._pages_promised = 0
        self._places_promised = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.waiting or self.running)

    def sequences(self) -> Iterator[Sequence]:
        """Every sequence that is running."""
        for admission in self.running.values():
            yield from admission.sequences

    def add(self, admission: Admission) -> None:
        """Queue a request. It must fit into an empty engine: the caller has checked."""
        assert admission.pages <= self.cache.pool.num_pages
        assert admission.width <= self.max_sequences
        self.waiting.append(admission)

    def schedule(self) -> list[Chunk]:
        """Choose the chunks of the next step; their sum stays within the budget."""
        budget = self.max_batch_tokens
        chunks: list[Chunk] = []
        prefills: list[Sequence] = []
        for sequence in self.sequences():
            remaining = sequence.remaining
            if remaining != 1:
                prefills.append(sequence)
            elif budget:
                chunks.append(Chunk(sequence, sequence.cache.length, 1))
                budget -= 1
        for sequence in prefills:
            if not budget:
                break
            count = min(sequence.remaining, budget)
            chunks.append(Chunk(sequence, sequence.cache.length, count))
            budget -= count
        while budget and self.waiting and self._fits(self.waiting[0]):
            sequence = self._admit(self.waiting.popleft())
            count = min(sequence.remaining, budget)
            chunks.append(Chunk(sequence, 0, count))
            budget -= count
        return chunks

    def advance(self, sequence: Sequence) -> None:
        """Go on after everything known of a sequence is computed: continue, fork or finish it."""
        continuations = sequence.reader.continuations()
        if not continuations:
            self._finish(sequence)
            return
        for reader, tokens in continuations[1:]:
            self._fork(sequence, reader, tokens)
        sequence.reader, tokens = continuations[0]
        sequence.tokens.extend(tokens)

    def _fork(self, parent: Sequence, reader: Reader, tokens: list[int]) -> None:
        known = parent.tokens + tokens
        child = Sequence(parent.request_id, known, self.cache.fork(parent.cache), reader)
        self.running[parent.request_id].sequences.append(child)

    def _finish(self, sequence: Sequence) -> None:
        admission = self.running[sequence.request_id]
        admission.sequences.remove(sequence)
        self.cache.release(sequence.cache)
        if not admission.sequences:
            self._leave(admission)

    def drop(self, request_id: str) -> bool:
        """Forget a request wherever it is; False if it is unknown."""
        admission = self.running.get(request_id)
        if admission is not None:
            for sequence in list(admission.sequences):
                self._finish(sequence)
            return True
        for index, waiting in enumerate(self.waiting):
            if waiting.request_id == request_id:
                del self.waiting[index]
                return True
        return False

    def check_integrity(self) -> None:
        """Assert that promises, places and pages add up; called at idle moments by tests."""
        running = self.running.values()
        assert self._pages_promised == sum(a.pages for a in running) <= self.cache.pool.num_pages
        assert self._places_promised == sum(a.width for a in running) <= self.max_sequences
        for admission in running:
            assert 0 < len(admission.sequences) <= admission.width
            pages = {
                page
                for sequence in admission.sequences
                for table in sequence.cache.tables.values()
                for page in table.pages
            }
            assert len(pages) <= admission.pages, "a request holds more pages than it asked for"
        self.cache.check_integrity(sequence.cache for sequence in self.sequences())

    def _fits(self, admission: Admission) -> bool:
        return (
            self._pages_promised + admission.pages <= self.cache.pool.num_pages
            and self._places_promised + admission.width <= self.max_sequences
        )

    def _admit(self, admission: Admission) -> Sequence:
        self._pages_promised += admission.pages
        self._places_promised += admission.width
        self.running[admission.request_id] = admission
        admission.sequences.append(admission.prompt)
        return admission.prompt

    def _leave(self, admission: Admission) -> None:
        self._pages_promised -= admission.pages
        self._places_promised -= admission.width
        del self.running[admission.request_id]
