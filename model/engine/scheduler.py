"""Who computes how many tokens in the next step. Plain Python, no tensors.

Each step serves decodes first, then prompts that were begun, then new ones (see `admitter`), within
a fixed budget of tokens.
"""

from model.hybrid_cache import HybridCache
from model.params import SchedulePolicy

from .admission import Admission
from .admitter import MAX_OVERTAKEN, Admitter
from .pacing import Pacer
from .sequence import Chunk, Reader, Sequence


class Scheduler:
    """Continuous batching under a token budget.

    Args:
        cache: the pages that sequences are admitted against.
        max_batch_tokens: tokens that a step computes at most.
        max_sequences: sequences that are held at the same time at most.
        policy: who begins first, see `Admitter`.
        max_overtaken: see `Admitter`.
        pacer: spreads prompts over the steps of long answers; None computes them at once.
    """

    def __init__(
        self,
        cache: HybridCache,
        max_batch_tokens: int,
        max_sequences: int,
        policy: SchedulePolicy = "shard",
        max_overtaken: int = MAX_OVERTAKEN,
        pacer: Pacer | None = None,
    ) -> None:
        self.cache = cache
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.admitter = Admitter(cache, max_batch_tokens, max_sequences, policy, max_overtaken)
        self._pacer = pacer
        self.running: dict[str, Admission] = {}

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self.admitter.waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.running or self.admitter.waiting)

    def add(self, admission: Admission) -> None:
        """Queue a request. It must fit into an empty engine: the caller has checked."""
        self.admitter.add(admission)

    def schedule(self) -> list[Chunk]:
        """Choose the chunks of the next step; their sum stays within the budget."""
        budget = self.max_batch_tokens
        chunks: list[Chunk] = []
        prefills: list[Sequence] = []
        for admission in self.running.values():
            for sequence in admission.sequences:
                length = sequence.cache.length
                remaining = len(sequence.tokens) - length
                if remaining > 1:
                    prefills.append(sequence)
                elif remaining and budget:
                    chunks.append(Chunk(sequence, length, 1))
                    budget -= 1
        if self._pacer is not None and budget and (prefills or self.admitter.waiting):
            waiting = self.admitter.waiting.values()
            budget = self._pacer.prompt_tokens(budget, self.running.values(), waiting)
        for sequence in prefills:
            if not budget:
                break
            budget -= self._compute(sequence, budget, chunks)
        while budget and (begun := self.admitter.begin_next()) is not None:
            self.running[begun.request_id] = begun
            budget -= self._compute(begun.prompt, budget, chunks)
        return chunks

    def launched(self, chunk: Chunk) -> None:
        """Take note that a chunk is computed before anything that is launched from now on.

        So its pages can be found by others and those that it let go of be written anew.
        """
        sequence = chunk.sequence
        if sequence.is_prompt:
            self.admitter.computed(self.running[sequence.request_id], chunk.start)
        self.cache.trim(sequence.cache)
        if chunk.last:
            sequence.is_prompt = False

    def settle(self, chunk: Chunk) -> None:
        """Go on after the values of a chunk were read: continue, fork or finish its sequence."""
        sequence = chunk.sequence
        if not chunk.last or sequence.ended:
            return
        continuations = sequence.reader.continuations()
        if not continuations:
            self._finish(sequence)
        elif len(sequence.tokens) > chunk.end:  # it was carried on
            ((_, (token,)),) = continuations
            sequence.learn(chunk.end, token)
        else:
            for reader, tokens in continuations[1:]:
                self._fork(sequence, reader, tokens)
            sequence.reader, tokens = continuations[0]
            sequence.tokens.extend(tokens)

    @staticmethod
    def _compute(sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        count = min(sequence.remaining, budget)
        chunks.append(Chunk(sequence, sequence.cache.length, count))
        return count

    def _fork(self, parent: Sequence, reader: Reader, tokens: list[int]) -> None:
        known = parent.tokens + tokens
        pages = self.cache.fork(parent.cache)
        child = Sequence(parent.request_id, known, pages, reader, adapter=parent.adapter)
        self.running[parent.request_id].sequences.append(child)

    def _finish(self, sequence: Sequence) -> None:
        admission = self.running[sequence.request_id]
        admission.sequences.remove(sequence)
        sequence.ended = True
        # A step on its way may still write to these pages: whoever takes them is launched later.
        self.cache.release(sequence.cache)
        if not admission.sequences:
            del self.running[admission.request_id]
            self.admitter.end(admission)

    def drop(self, request_id: str) -> bool:
        """Forget a request wherever it is; False if it is unknown."""
        admission = self.running.get(request_id)
        if admission is None:
            return self.admitter.drop(request_id)
        for sequence in list(admission.sequences):
            self._finish(sequence)
        return True

    def check_integrity(self) -> None:
        """Assert that promises, places and pages add up; called at idle moments by tests."""
        self.admitter.check_integrity(self.running.values())
