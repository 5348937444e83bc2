"""A look at a job's prompts: a few thousand rows from all over the input, read as a run would."""

import random
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .inputs import InputFile
from .lengths import Lengths
from .packet import PROMPTS, unpacked
from .plan import Plan, Unit
from .prepare import Preparer
from .reader import read_units

SAMPLE_ROWS = 2048
# Rows that are read together.
STRETCH = 32
# A row group can only be read from its start: no more of one than this is read to find a stretch.
REACH = 8192
THREADS = 8


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows of a sample that would become error rows, all for the same reason.

    Attributes:
        reason: with `#` for numbers.
        count: how many there are.
        over_long: whether they have too many tokens.
        example: file and row of the first.
    """

    reason: str
    count: int
    over_long: bool
    example: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What was found in a sample.

    Attributes:
        rows: that were read.
        seed: that they were drawn with.
        prompts: lengths of all prompts that could be tokenized.
        good: lengths of those that the engine would be given.
        bad: the others, the most frequent reason first.
    """

    rows: int
    seed: int
    prompts: Lengths
    good: Lengths
    bad: tuple[BadRows, ...]


def take_sample(plan: Plan, preparer: Preparer, rows: int = SAMPLE_ROWS, seed: int = 0) -> Sample:
    """Draw rows of a job, and prepare them.

    Args:
        plan: of the job.
        preparer: makes prompts of rows.
        rows: how many to read at most.
        seed: of the draw.
    """
    stretches = draw(plan, rows, random.Random(seed))  # noqa: S311
    with ThreadPoolExecutor(THREADS) as pool:
        prepared = list(
            pool.map(lambda unit: _cells(plan.files[unit.file], unit, preparer), stretches)
        )
    prompts, good = Lengths(), Lengths()
    bad: dict[str, list[tuple[Unit, int, dict[str, Any]]]] = defaultdict(list)
    for unit, cells in zip(stretches, prepared, strict=True):
        counted = [cell["prompt_tokens"] for cell in cells if cell["prompt_tokens"] is not None]
        prompts.merge(Lengths(counted))
        good.merge(Lengths([cell["prompt_tokens"] for cell in cells if cell["error"] is None]))
        for row, cell in enumerate(cells, unit.first):
            if cell["error"] is not None:
                bad[_reason(cell)].append((unit, row, cell))
    found = [
        BadRows(
            reason,
            len(cases),
            _is_over_long(cases[0][2]),
            f"{plan.files[cases[0][0].file].name} row {cases[0][1]}",
        )
        for reason, cases in bad.items()
    ]
    found.sort(key=lambda rows: (-rows.count, rows.reason))
    return Sample(sum(map(len, prepared)), seed, prompts, good, tuple(found))


def draw(plan: Plan, rows: int, rng: random.Random) -> list[Unit]:
    """Choose stretches of rows, spread evenly over the job; all of them if the job is small."""
    if plan.total_rows <= rows:
        return [
            Unit(index, first, min(first + STRETCH, count))
            for index, count in enumerate(plan.rows)
            for first in range(0, count, STRETCH)
        ]
    ends = list(accumulate(plan.rows))
    count = rows // STRETCH
    chosen: set[Unit] = set()
    for number in range(count):
        low, high = (plan.total_rows * n // count for n in (number, number + 1))
        place = rng.randrange(low, high)
        index = bisect_right(ends, place)
        row = place - (ends[index] - plan.rows[index])
        chosen.add(_stretch(plan, index, row, rng))
    return sorted(chosen)


def _stretch(plan: Plan, index: int, row: int, rng: random.Random) -> Unit:
    """Choose the stretch that holds a row; where that lies too deep in its span, another."""
    spans = plan.files[index].spans
    ends = list(accumulate(spans))
    span = bisect_right(ends, row)
    start = ends[span] - spans[span]
    within = row - start if row - start < REACH else rng.randrange(REACH)
    first = start + within // STRETCH * STRETCH
    return Unit(index, first, min(first + STRETCH, ends[span], plan.rows[index]))


def _cells(file: InputFile, unit: Unit, preparer: Preparer) -> Sequence[dict[str, Any]]:
    (rows,) = read_units(file, [unit], preparer.columns, preparer.read)
    cells: list[dict[str, Any]] = unpacked(preparer.packet(rows, file.name), PROMPTS).to_pylist()
    return cells


def _reason(cell: dict[str, Any]) -> str:
    """Put rows together whose messages differ in their numbers only."""
    reason = re.sub(r"\d+", "#", str(cell["error"]))
    kind = cell.get("error_class")
    return f"{kind}: {reason}" if kind else reason


def _is_over_long(cell: dict[str, Any]) -> bool:
    """Only a prompt that was tokenized, or is too long even for that, fails by its length."""
    return cell["prompt_tokens"] is not None or "characters, which can't fit" in str(cell["error"])
