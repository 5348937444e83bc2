"""Settings of sampling that rows bring along: JSON in a column, over those of the job."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pyarrow as pa

from model.constraint import ConstraintKind
from model.errors import GemmarayError, ParameterError
from model.params import SamplingParams

from .columns import decoded, texts
from .job import JobSpec

FORMS = frozenset(get_args(ConstraintKind))


@dataclass(frozen=True, slots=True)
class RowSettings:
    """Reads them.

    Attributes:
        column: a text column with a JSON object of SamplingParams' fields; null is the job's own.
        params: what holds where a row says nothing.
    """

    column: str
    params: SamplingParams

    @classmethod
    def of(cls, spec: JobSpec) -> "RowSettings | None":
        """Read from a job where its rows have theirs, if they have any."""
        if spec.settings_column is None:
            return None
        assert spec.tasks.generate is not None
        # The job's seed is that of all rows together, from which each has its own.
        return cls(spec.settings_column, spec.tasks.generate.model_copy(update={"seed": None}))

    def read(self, table: pa.Table) -> Iterator[SamplingParams | GemmarayError]:
        """Give each row's settings, or why it has none."""
        for value in texts(table.column(self.column)):
            try:
                yield self.params if value is None else self._read(value)
            except GemmarayError as error:
                yield error

    def _read(self, value: bytes) -> SamplingParams:
        """Read one cell.

        Raises:
            PromptError: it is not UTF-8.
            ParameterError: it is no JSON object, or a setting can't be had; it is named.
        """
        text = decoded(value, self.column)
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._fault(f"it is not valid JSON: {error}") from None
        if not isinstance(given, dict):
            raise self._fault("it holds no JSON object")
        if given.get("n") not in {None, 1}:
            raise self._fault("n must be 1: a row has one generated_text")
        if given.get("logprobs") is not None and self.params.logprobs is None:
            raise self._fault("logprobs have no column here: set generate.logprobs in the job")
        try:
            return sampling_params({**self._base(given), **given})
        except ParameterError as error:
            raise self._fault(str(error).removeprefix("SamplingParams: ")) from None

    def _base(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Give the job's own settings; an answer has one form, so another one replaces it."""
        replaced = FORMS if FORMS & given.keys() else frozenset()
        return self.params.model_dump(exclude_unset=True, exclude=set(replaced))

    def _fault(self, reason: str) -> ParameterError:
        return ParameterError(f"column {self.column!r}: {reason}")


def sampling_params(values: Mapping[str, Any]) -> SamplingParams:
    """Make settings of what JSON holds, where the keys of logit_bias are text.

    Raises:
        ParameterError: one of them can't be had.
    """
    bias = values.get("logit_bias")
    if isinstance(bias, Mapping):
        keys = {key: int(key) if str(key).isdecimal() else key for key in bias}
        values = {**values, "logit_bias": {keys[key]: number for key, number in bias.items()}}
    return SamplingParams(**values)
