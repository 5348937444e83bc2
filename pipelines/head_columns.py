"""The columns of tasks that read a head, or hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from model.errors import ParameterError
from model.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    HiddenStatesOutput,
    TaggingOutput,
)
from model.tasks import Classify, Embed, TagTokens, Task

from .result_columns import Row
from .task_settings import ClassifySettings, EmbedSettings, TagSettings

LABEL_SCORES = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))
ENTITY = (
    ("label", pa.string()),
    ("start", pa.int32()),
    ("end", pa.int32()),
    ("text", pa.string()),
    ("score", pa.float64()),
)
INDEX = ("index", pa.int32())


class LabelCells:
    """The columns of both ways to choose a label."""

    __slots__ = ()

    @property
    def top_k(self) -> int | None:
        """How many labels are reported; None is all, in their own order."""
        return None

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types."""
        return [
            pa.field("label", pa.string()),
            pa.field("label_score", pa.float64()),
            pa.field("label_scores", LABEL_SCORES),
        ]

    def cells(self, result: ClassificationOutput) -> dict[str, Any]:
        """Give the values of the columns."""
        scores = [{"label": item.label, "score": item.score} for item in result.best(self.top_k)]
        return {"label": result.label, "label_score": result.score, "label_scores": scores}


@dataclass(frozen=True, slots=True)
class ClassifyColumns(LabelCells):
    """label, label_score and label_scores, from the classification head."""

    settings: ClassifySettings

    @property
    def top_k(self) -> int | None:
        """How many labels are reported."""
        return self.settings.top_k

    @property
    def reserve(self) -> int:
        """Nothing follows the prompt."""
        return 0

    def task(self, row: Row) -> Task:  # noqa: ARG002 - the prompt is all there is
        """Classify."""
        return Classify(self.settings.function_to_apply)


@dataclass(frozen=True, slots=True)
class TagColumns:
    """entities: labelled spans of the prompt's text, or its tokens."""

    settings: TagSettings

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types; tokens that are not aggregated have their index, too."""
        return [pa.field("entities", pa.list_(pa.struct(self._parts)))]

    @property
    def reserve(self) -> int:
        """Nothing follows the prompt."""
        return 0

    def task(self, row: Row) -> Task:
        """TagTokens, with the text that the spans are cut from."""
        settings = self.settings
        return TagTokens(row.text, row.offsets, settings.aggregation, settings.ignore_labels)

    def cells(self, result: TaggingOutput) -> dict[str, Any]:
        """Give the values of the columns."""
        names = [name for name, _ in self._parts]
        return {"entities": [{n: getattr(e, n) for n in names} for e in result.entities]}

    @property
    def _parts(self) -> list[tuple[str, pa.DataType]]:
        return [*ENTITY, INDEX] if self.settings.aggregation == "none" else [*ENTITY]


@dataclass(frozen=True, slots=True)
class EmbedColumns:
    """embedding: a vector, or one for each token."""

    settings: EmbedSettings

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types."""
        vector = pa.list_(pa.float32() if self.settings.dtype == "float32" else pa.float16())
        return [pa.field("embedding", pa.list_(vector) if self.many else vector)]

    @property
    def reserve(self) -> int:
        """Nothing follows the prompt."""
        return 0

    def task(self, row: Row) -> Task:  # noqa: ARG002 - the prompt is all there is
        """Embed."""
        return Embed(self.settings.pooling, self.settings.normalize, self.settings.layer)

    def cells(self, result: EmbeddingOutput | HiddenStatesOutput) -> dict[str, Any]:
        """Give the values of the columns.

        Raises:
            ParameterError: one is too large for float16.
        """
        if isinstance(result, HiddenStatesOutput):
            return {"embedding": list(self._rounded(result.hidden_states))}
        return {"embedding": self._rounded(np.array(result.embedding, np.float32))}

    @property
    def many(self) -> bool:
        """Whether a row has a vector for each token."""
        return self.settings.pooling == "none"

    def _rounded(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.settings.dtype == "float32":
            return values
        largest = float(np.finfo(np.float16).max)
        if np.abs(values).max() > largest:
            raise ParameterError(
                f"a hidden state is larger than float16 can hold ({largest:.0f}): take dtype: "
                "float32, or normalize"
            )
        return values.astype(np.float16)
