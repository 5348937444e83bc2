"""How fast prompts are begun when one long answer outlasts everything else.

A step that computes few tokens costs as much as the weights take to read, whatever it computes;
only from some tens of tokens on does it cost by the token. When the last long answers are written
alone, most of that is idle. So while the work that is left is little, beside the steps that the
longest answer needs anyway, prompts are not computed at once: they are spread over those steps, but
never so thinly that a prompt would begin too late to end with the longest answer.
"""

from collections.abc import Collection

from .admission import Admission
from .sequence import Sequence

# Fewer tokens than this make no step cheaper on a CPU (benchmarks/LOG.md).
FLOOR = 16
# With more work than this per step there is nothing to fill up.
CROWD = 128
# Fewer steps than this are not worth it; with more requests than this the end is not in sight.
SHORTEST = 16
MOST_WAITING = 512


class Pacer:
    """Spreads prompts over the steps of the longest answer.

    Lengths are what requests may write at most: an answer that ends early only ends the spreading
    early.
    """

    def prompt_tokens(
        self, budget: int, running: Collection[Admission], waiting: Collection[Admission]
    ) -> int:
        """Return how many prompt tokens the next step should compute, at most `budget`.

        Args:
            budget: what the step has room for beside the decodes.
            running: requests with pages.
            waiting: requests that have not begun.
        """
        if not running or len(waiting) > MOST_WAITING:
            return budget
        decodes, rows, horizon = 0, 0, 0
        prompts: list[tuple[int, int]] = []
        for admission in running:
            for sequence in admission.sequences:
                left = _left(admission, sequence)
                rows += left + sequence.remaining
                if sequence.remaining <= 1:
                    decodes += 1
                    horizon = max(horizon, left)
                else:
                    prompts.append((left, sequence.remaining))
        for admission in waiting:
            answer = max(admission.branches, default=0)
            prompts.append((answer, admission.prompt_tokens))
            rows += sum(admission.branches) + admission.prompt_tokens
        if horizon < SHORTEST or rows > CROWD * horizon:
            return budget
        even = max(FLOOR, -(-rows // horizon)) - decodes
        return min(budget, max(even, _deadlines(prompts, horizon, budget), 1))


def _left(admission: Admission, sequence: Sequence) -> int:
    """Return how many tokens more a sequence may draw."""
    answer = max(admission.branches, default=0)
    return max(0, answer + admission.prompt_tokens - len(sequence.tokens))


def _deadlines(prompts: list[tuple[int, int]], horizon: int, budget: int) -> int:
    """Return the tokens per step that let every answer end within the horizon.

    Args:
        prompts: what each may write, and tokens of it that are to be computed before.
        horizon: steps.
        budget: more than this need not be told apart.
    """
    tokens = rate = 0
    for answer, prompt in sorted(prompts, reverse=True):
        tokens += prompt
        slack = horizon - answer
        if slack <= 0:
            return budget
        rate = max(rate, -(-tokens // slack))
    return rate
