"""A job's side of the replica: packets to engine requests, and outputs to answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.replica import Request
from model.errors import GemmarayError
from model.outputs import RequestOutput

from .packet import PROMPTS, file_name_of, unit_label, unit_of, unpacked, with_answers
from .plan import row_seed
from .schema import ERROR_FIELD, TOKEN_FIELD
from .tasks import JobTasks, Row


@dataclass(frozen=True, slots=True)
class JobWork:
    """What a replica knows of the job.

    Attributes:
        tasks: what is computed for each row.
        seed: what the rows' sampling seeds are made from.
    """

    tasks: JobTasks
    seed: int

    def name(self, packet: pa.Table) -> str:
        """Name the unit in a packet, for counting and messages."""
        return unit_label(file_name_of(packet), unit_of(packet))

    def requests(self, packet: pa.Table) -> list[Request | None]:
        """Give what to ask the engine for each row; None for rows that have failed already."""
        unit, file_name = unit_of(packet), file_name_of(packet)
        requests: list[Request | None] = []
        for index, row in enumerate(unpacked(packet, PROMPTS).to_pylist()):
            if row["error"] is not None:
                requests.append(None)
                continue
            seed = row_seed(self.seed, file_name, unit.first + index)
            places = row["offsets"] or []
            offsets = tuple(zip(places[::2], places[1::2], strict=True))
            ready = Row(row["prompt_ids"], row["spaced"], seed, row["text"] or "", offsets)
            requests.append(Request(ready.prompt_ids, self.tasks.tasks(ready)))
        return requests

    def answered(
        self, packet: pa.Table, outcomes: Mapping[int, RequestOutput | GemmarayError]
    ) -> pa.Table:
        """Put the outcomes of the rows that were asked into the packet."""
        prompts = unpacked(packet, PROMPTS)
        fields = [TOKEN_FIELD, *self.tasks.fields, ERROR_FIELD]
        rows = [
            self._cells(outcomes.get(index), tokens, error)
            for index, (tokens, error) in enumerate(
                zip(prompts["prompt_tokens"].to_pylist(), prompts["error"].to_pylist(), strict=True)
            )
        ]
        return with_answers(packet, pa.Table.from_pylist(rows, pa.schema(fields)))

    def _cells(
        self, outcome: RequestOutput | GemmarayError | None, tokens: int | None, error: str | None
    ) -> dict[str, Any]:
        if isinstance(outcome, RequestOutput):
            return {"prompt_tokens": tokens, **self.tasks.cells(outcome.results)}
        return {"prompt_tokens": tokens, "error": error if outcome is None else str(outcome)}
