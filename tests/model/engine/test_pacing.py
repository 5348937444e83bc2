"""Prompts spread over the steps that the longest answer takes anyway: the last ends no later."""

from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from model.engine.admission import Admission
from model.engine.completion import CompletionReader
from model.engine.pacing import CROWD, FLOOR, MOST_WAITING, SHORTEST, Pacer
from model.engine.sequence import Sequence
from model.hybrid_cache import SequenceCache

BUDGET = 512
Lengths = list[tuple[int, int]]


@dataclass
class Simulation:
    """The scheduler's order (the longest answer first), without pages or a model."""

    lengths: Lengths
    pacer: Pacer | None

    def run(self) -> list[int]:
        """Return the tokens of each step."""
        waiting = sorted((admission(*each) for each in self.lengths), key=lambda a: a.rank)
        running: list[Admission] = []
        steps: list[int] = []
        while running or waiting:
            decodes = [a for a in running if a.prompt.remaining == 1]
            budget = BUDGET - len(decodes)
            if self.pacer is not None:
                budget = self.pacer.prompt_tokens(budget, running, waiting)
                assert 0 < budget <= BUDGET - len(decodes)
            computed = [(a, 1) for a in decodes]
            for each in [a for a in running if a.prompt.remaining > 1]:
                computed.append((each, min(budget, each.prompt.remaining)))
                budget -= computed[-1][1]
            while budget and waiting:
                running.append(waiting.pop(0))
                running[-1].sequences.append(running[-1].prompt)
                computed.append((running[-1], min(budget, running[-1].prompt_tokens)))
                budget -= computed[-1][1]
            for each, count in computed:
                sequence = each.prompt
                sequence.cache.length += count
                if not sequence.remaining:
                    sequence.tokens.append(0)
                    if len(sequence.tokens) > each.prompt_tokens + each.branches[0]:
                        running.remove(each)
            steps.append(sum(count for _, count in computed))
        return steps


def admission(prompt: int, answer: int) -> Admission:
    reader: CompletionReader = None  # type: ignore[assignment] # nobody reads
    sequence = Sequence("r", [0] * prompt, SequenceCache({}), reader)
    return Admission("r", sequence, prompt, [answer])


LENGTHS = st.lists(st.tuples(st.integers(2, 700), st.integers(1, 400)), min_size=1, max_size=40)


@given(LENGTHS)
@example([(20, 400), *[(90, 60)] * 30])
@example([(600, 399), (20, 400), *[(90, 390)] * 9])
def test_the_last_answer_ends_no_later(lengths: Lengths) -> None:
    paced = Simulation(lengths, Pacer()).run()
    # A last step with a rounded-up share may push one answer's end by a step.
    assert len(paced) <= len(Simulation(lengths, None).run()) + 1
    assert max(paced) <= BUDGET


def test_a_long_answer_is_kept_company() -> None:
    lengths = [(20, 400), *[(90, 60)] * 30]
    alone = Simulation(lengths, None).run()
    paced = Simulation(lengths, Pacer()).run()
    assert sum(alone) == sum(paced)
    assert sum(tokens < FLOOR for tokens in alone) > 300
    assert sum(tokens < FLOOR for tokens in paced) < 150


def test_answers_of_one_length_are_not_spread() -> None:
    lengths = [(128, 64)] * 64
    assert Simulation(lengths, Pacer()).run() == Simulation(lengths, None).run()


def test_when_there_is_nothing_to_fill_up() -> None:
    pacer, short = Pacer(), [admission(90, 6)]
    begun = admission(2, SHORTEST - 2)
    begun.sequences.append(begun.prompt)
    begun.prompt.cache.length = 1
    assert pacer.prompt_tokens(100, [], short) == 100
    assert pacer.prompt_tokens(100, [begun], short) == 100
    begun.branches[0] = 400
    assert pacer.prompt_tokens(100, [begun], short) == FLOOR - 1
    assert pacer.prompt_tokens(5, [begun], short) == 5
    assert pacer.prompt_tokens(100, [begun], short * (MOST_WAITING + 1)) == 100
    assert pacer.prompt_tokens(100, [begun], [admission(CROWD * 401, 6)]) == 100
