"""A step on its way: launched, and not yet settled.

To launch a step is to give the device all that it has to do, and nothing here waits for it. To
settle a step is to wait for its values and hand them to the readers. Between the two the host may
launch the next step, so that the device finds it when it is done with this one. What that one
computes after a token that is being drawn, it takes from where the device has put it.
"""

from collections.abc import Sequence

from model.constrain import Constraints
from model.hybrid_cache import HybridCache

from .executor import Executor
from .sequence import Chunk, deepest
from .step import StepPlan, by_adapter, pack


class Flight:
    """One step. Launched on construction; then `carry` if another is launched before it is settled.

    Args:
        chunks: what it computes, at least one.
        cache: their pages.
        executor: computes it.
        constraints: finds the masks of constrained draws meanwhile.

    Raises on construction: EngineDeadError: a rank died.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        cache: HybridCache,
        executor: Executor,
        constraints: Constraints,
    ) -> None:
        self.chunks = chunks = by_adapter(chunks)
        self._plan = plan = StepPlan()
        row = 0
        for chunk in chunks:
            chunk.sequence.reader.want(plan, chunk, row)
            row += chunk.count
        guides = plan.guides()
        masks = constraints.start(guides) if guides else None
        tails = plan.keep_tails([chunk.count for chunk in chunks])
        depth = deepest(chunk.sequence.reader.layers for chunk in chunks)
        batch = pack(chunks, cache, plan.logit_rows, tails, plan.layers, depth)
        self._queries = plan.queries(masks)
        states, self._answers = executor.launch(batch, self._queries)
        kept = batch.segments if tails is None else batch.tail_segments
        plan.send(states, executor.runner.head, kept)

    @property
    def may_wait(self) -> bool:
        """Whether its draws are such that the next step can be launched before they are known."""
        return self._queries is None or self._queries.on_device

    def carry(self) -> None:
        """Let sequences go on with the tokens that are being drawn, where that is certain to do."""
        places = self._plan.places()
        for chunk in self.chunks:
            reader = chunk.sequence.reader.carry() if chunk.last else None
            if reader is not None:
                chunk.sequence.carry(reader, places[reader])

    def settle(self) -> int:
        """Wait for the values and hand them out; returns how many drawn tokens were accepted."""
        return self._plan.settle(self._answers)
