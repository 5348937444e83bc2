"""From the rows of a unit to its packet: prompts rendered and tokenized, kept columns set aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import pyarrow as pa

from model.errors import GemmarayError, PromptError
from model.long_texts import Frame, LongTexts, WindowedPrompt, fit
from model.params import SamplingParams
from model.tokenizer import GemmaTokenizer

from .adapters import RowAdapters
from .checkpoint_info import CheckpointInfo
from .columns import without_invalid_text
from .errors import InputError, error_cells
from .job import JobSpec
from .packet import make_packet
from .prompts import Prompt, PromptSource
from .reader import PLAIN, ReadOptions, UnitRows
from .row_settings import RowSettings
from .tasks import JobTasks
from .tokenizer_files import TokenizerFiles

# More characters than any token of Gemma's vocabulary stands for: longer text can't fit, and is
# not worth tokenizing to find that out.
MAX_TOKEN_CHARACTERS = 128
REFUSED = LongTexts()

PROMPT_SCHEMA = pa.schema(
    [
        pa.field("prompt_ids", pa.list_(pa.int32())),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("spaced", pa.bool_()),
        pa.field("text", pa.string()),
        pa.field("offsets", pa.list_(pa.int32())),
        pa.field("truncated", pa.bool_()),
        pa.field("windows", pa.int32()),
        pa.field("frame", pa.list_(pa.int32())),
        pa.field("bounds", pa.list_(pa.int32())),
        pa.field("settings", pa.string()),
        pa.field("adapter", pa.string()),
        pa.field("error_class", pa.string()),
        pa.field("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Preparer:
    """What the reading tasks know of the job.

    Attributes:
        source: where prompts come from.
        kept: the kept columns as they are in the output.
        files: of the tokenizer.
        chat: whether text goes into a user turn.
        system: what becomes of system messages.
        with_text: whether a task needs the text and each token's place in it.
        max_len: most tokens of prompt and answer.
        reserve: tokens that must fit behind the prompt.
        settings: where rows have settings of their own, if they have any.
        adapters: where rows name their adapter, if they do.
        beside: tokens that must fit behind the prompt for other tasks than generate.
        read: how input files are read.
        long_texts: what becomes of prompts that are too long.
    """

    source: PromptSource
    kept: pa.Schema
    files: TokenizerFiles
    chat: bool
    system: Literal["reject", "fold"]
    with_text: bool
    max_len: int
    reserve: int
    settings: RowSettings | None = None
    adapters: RowAdapters | None = None
    beside: int = 0
    read: ReadOptions = PLAIN
    long_texts: LongTexts = REFUSED

    @classmethod
    def of(
        cls, spec: JobSpec, checkpoint: CheckpointInfo, tasks: JobTasks, kept: pa.Schema
    ) -> "Preparer":
        """Take from a job what it needs."""
        return cls(
            source=PromptSource.of(spec),
            kept=kept,
            files=checkpoint.tokenizer_files,
            chat=checkpoint.chat,
            system=spec.system,
            with_text=tasks.needs_text,
            max_len=checkpoint.max_model_len,
            reserve=tasks.reserve,
            settings=RowSettings.of(spec),
            adapters=RowAdapters.of(spec),
            beside=tasks.reserve_beside,
            read=ReadOptions.of(spec),
            long_texts=LongTexts(spec.long_texts, spec.stride),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that it needs."""
        return tuple(dict.fromkeys((*self.source.columns, *self.kept.names)))

    def packet(self, rows: UnitRows, file_name: str) -> pa.Table:
        """Prepare a unit. A row that can't be used is marked with the reason."""
        kept, faults = self._keep(rows.table)
        faults |= rows.faults
        tokenizer = self.files.load()
        prompts = self.source.prompts(rows.table)
        settings = self.settings.read(rows.table) if self.settings else repeat(None)
        adapters = self.adapters.read(rows.table) if self.adapters else repeat(None)
        cells = [
            _fault(faults[row]) if row in faults else self._cells(prompt, own, name, tokenizer)
            for row, (prompt, own, name) in enumerate(
                zip(prompts, settings, adapters, strict=False)
            )
        ]
        return make_packet(rows.unit, file_name, pa.Table.from_pylist(cells, PROMPT_SCHEMA), kept)

    def _keep(self, table: pa.Table) -> tuple[pa.Table, dict[int, str]]:
        faults: dict[int, str] = {}
        columns = []
        for field in self.kept:
            column, bad = without_invalid_text(table[field.name])
            faults |= dict.fromkeys(bad, f"column {field.name!r} is not valid UTF-8; null here")
            columns.append(column.cast(field.type))
        if not columns:
            return pa.table({}), faults
        return pa.table(columns, schema=self.kept), faults

    def _cells(
        self,
        prompt: Prompt | PromptError,
        settings: SamplingParams | GemmarayError | None,
        adapter: str | PromptError | None,
        tokenizer: GemmaTokenizer,
    ) -> dict[str, Any]:
        cells: dict[str, Any] = {}
        reserve = self.reserve
        try:
            if isinstance(prompt, PromptError):
                raise prompt
            if isinstance(settings, GemmarayError):
                raise settings
            if isinstance(adapter, PromptError):
                raise adapter
            if self.long_texts.mode == "error":
                self._check_characters(prompt)
            cells = self._fitted(self._encoded(prompt, tokenizer), tokenizer)
            cells |= {"adapter": adapter}
            if settings is not None:
                cells["settings"] = settings.model_dump_json(exclude_defaults=True)
                reserve = max(settings.max_tokens, self.beside)
            cells["prompt_tokens"] = len(cells["prompt_ids"])
            if self.long_texts.mode == "error":
                self._check_tokens(cells["prompt_tokens"], reserve)
        except GemmarayError as error:
            return {"prompt_tokens": cells.get("prompt_tokens"), **error_cells(error)}
        return cells

    def _encoded(self, prompt: Prompt, tokenizer: GemmaTokenizer) -> dict[str, Any]:
        if isinstance(prompt, list):
            ids = tokenizer.encode_messages(prompt, system=self.system)
            return {"prompt_ids": ids, "spaced": prompt[-1].get("role") != "user"}
        if self.chat:
            messages = [{"role": "user", "content": prompt}]
            return {"prompt_ids": tokenizer.encode_messages(messages), "spaced": False}
        spaced = not prompt[-1:].isspace()
        if self.with_text:
            ids, offsets = tokenizer.encode_with_offsets(prompt)
            flat = [place for pair in offsets for place in pair]
            return {"prompt_ids": ids, "spaced": spaced, "text": prompt, "offsets": flat}
        return {"prompt_ids": tokenizer.encode_text(prompt), "spaced": spaced}

    def _fitted(self, cells: dict[str, Any], tokenizer: GemmaTokenizer) -> dict[str, Any]:
        """Cut a prompt that is too long, or say where its windows are."""
        if self.long_texts.mode == "error":
            return cells
        ids = cells["prompt_ids"]
        frame = Frame.of_chat(ids, tokenizer) if self._is_chat else Frame()
        fitted = fit(ids, self.max_len, self.long_texts, frame)
        cells |= {"truncated": fitted.truncated, "windows": fitted.windows}
        if isinstance(fitted.prompt, WindowedPrompt):
            bounds = [place for pair in fitted.prompt.bounds for place in pair]
            return cells | {"frame": [frame.head, frame.tail], "bounds": bounds}
        if "offsets" in cells:
            cells["offsets"] = cells["offsets"][: 2 * fitted.kept]
        return cells | {"prompt_ids": fitted.prompt}

    @property
    def _is_chat(self) -> bool:
        return self.chat or self.source.messages_column is not None

    def _check_characters(self, prompt: Prompt) -> None:
        size, most = _characters(prompt), self.max_len * MAX_TOKEN_CHARACTERS
        if size > most:
            raise PromptError(
                f"the prompt has {size} characters, which can't fit into {self.max_len} tokens"
            )

    def _check_tokens(self, count: int, reserve: int) -> None:
        room = self.max_len - reserve
        if count > room:
            kept = f" of {self.max_len}, as {reserve} are kept for the answer"
            raise PromptError(
                f"the prompt has {count} tokens, and {room} fit"
                f"{kept if reserve else ' the model'}: shorten it"
            )


def _fault(reason: str) -> dict[str, Any]:
    """Say that a row could not be read or kept as it is in the input."""
    return dict(error_cells(InputError(reason)))


def _characters(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    contents: Sequence[Any] = [m.get("content") for m in prompt if isinstance(m, dict)]
    return sum(len(content) for content in contents if isinstance(content, str))
