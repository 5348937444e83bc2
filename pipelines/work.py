"""A job's side of the replica: packets to engine requests, and outputs to answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.replica import Request
from actors.trace import Trace
from model.errors import GemmarayError
from model.long_texts import Frame, WindowedPrompt
from model.outputs import RequestOutput

from .attempts import note
from .errors import error_cells
from .packet import PROMPTS, file_name_of, rows_of, unit_of, unpacked, with_answers
from .plan import row_seed
from .reply import make_reply
from .result_columns import Row
from .row_settings import sampling_params
from .schema import ERROR_FIELDS, TOKEN_FIELD
from .sink import Sink, commit_packet
from .tasks import JobTasks


@dataclass(frozen=True, slots=True)
class JobWork:
    """What a replica knows of the job.

    Attributes:
        tasks: what is computed for each row.
        seed: what the rows' sampling seeds are made from.
        sink: where answers go, and attempts are noted; None notes none and takes none.
    """

    tasks: JobTasks
    seed: int
    sink: Sink | None = None

    def name(self, packet: pa.Table) -> str:
        """Name the unit in a packet, for counting."""
        return unit_of(packet).key

    def begin(self, packet: pa.Table, attempt: int) -> None:
        """Note an attempt where later runs find it. Raises StorageError."""
        if self.sink is not None:
            note(self.sink.store, unit_of(packet), attempt)

    def commit(self, packet: pa.Table) -> pa.Table:
        """Make the answers in a packet their unit's part. Raises StorageError."""
        assert self.sink is not None
        return make_reply(unit_of(packet), commit_packet(self.sink, packet))

    def given_up(self, packet: pa.Table) -> pa.Table:
        """Say so."""
        return make_reply(unit_of(packet), None)

    def requests(self, packet: pa.Table) -> list[Request | None]:
        """Give what to ask the engine for each row; None for rows that have failed already."""
        file_name = file_name_of(packet)
        requests: list[Request | None] = []
        prompts = unpacked(packet, PROMPTS).to_pylist()
        for place, row in zip(rows_of(packet), prompts, strict=True):
            if row["error"] is not None:
                requests.append(None)
                continue
            seed = row_seed(self.seed, file_name, place)
            offsets, text, own = _pairs(row["offsets"]), row["text"] or "", row["settings"]
            settings = sampling_params(json.loads(own)) if own else None
            ready = Row(_prompt(row), row["spaced"], seed, text, offsets, settings)
            requests.append(Request(ready.prompt_ids, self.tasks.tasks(ready), row["adapter"]))
        return requests

    def answered(
        self,
        packet: pa.Table,
        outcomes: Mapping[int, RequestOutput | GemmarayError],
        trace: Trace,
    ) -> pa.Table:
        """Put the outcomes of the rows that were asked into the packet."""
        fields = [TOKEN_FIELD, *self.tasks.fields, *ERROR_FIELDS]
        lengths = [field.name for field in self.tasks.length_fields]
        names = ["prompt_tokens", *lengths, "error_class", "error"]
        prompts = unpacked(packet, PROMPTS).select(names)
        rows = [
            self._cells(outcomes.get(index), failed)
            for index, failed in enumerate(prompts.to_pylist())
        ]
        return with_answers(packet, pa.Table.from_pylist(rows, pa.schema(fields)), trace)

    def _cells(
        self, outcome: RequestOutput | GemmarayError | None, row: dict[str, Any]
    ) -> dict[str, Any]:
        """Give a row's result columns; without an outcome it had failed before."""
        if isinstance(outcome, RequestOutput):
            try:
                return {**row, **self.tasks.cells(outcome.results)}
            except GemmarayError as error:
                return {**row, **error_cells(error)}
        return row if outcome is None else {**row, **error_cells(outcome)}


def _prompt(row: Mapping[str, Any]) -> list[int] | WindowedPrompt:
    """Give the tokens of a row, or its windows; see prepare.PROMPT_SCHEMA."""
    ids: list[int] = row["prompt_ids"]
    if not row["bounds"]:
        return ids
    return WindowedPrompt(ids, Frame(*row["frame"]), _pairs(row["bounds"]))


def _pairs(flat: Sequence[int] | None) -> tuple[tuple[int, int], ...]:
    values = flat or ()
    return tuple(zip(values[::2], values[1::2], strict=True))
