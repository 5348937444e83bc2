"""What a job asks for each row, as a person writes it."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from model.params import SamplingParams, Settings
from model.tasks import Aggregation, FunctionToApply, Normalize, Pooling

Name = Annotated[str, Field(min_length=1)]
EmbeddingDType = Literal["float32", "float16"]


def listed(value: Any) -> Any:
    """Take a list, as YAML has it, for a tuple."""
    return tuple(value) if isinstance(value, list) else value


class LabelSettings(Settings):
    """The labels whose likelihood as the answer is compared.

    Attributes:
        labels: at least two, as the model would write them.
        normalize: "sum" compares log-likelihoods, "mean" divides them by the label's tokens.
    """

    labels: tuple[Name, ...] = Field(min_length=2, max_length=4096)
    normalize: Normalize = "sum"

    @field_validator("labels", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ValueError(f"labels holds {twice[0]!r} more than once")
        blank = [label for label in self.labels if label != label.strip() or not label]
        if blank:
            raise ValueError(f"label {blank[0]!r} must not start or end with white space")
        return self


class ClassifySettings(Settings):
    """How the outputs of a sequence classification head are reported.

    Attributes:
        function_to_apply: makes scores of them; "default" is what their problem type asks for.
        top_k: report so many labels, the highest score first; None is all, in the head's order.
    """

    function_to_apply: FunctionToApply = "default"
    top_k: int | None = Field(default=None, ge=1)


class TagSettings(Settings):
    """How labelled tokens become entities.

    Attributes:
        aggregation: the strategy, see model.tagging.
        ignore_labels: labels that make no entity.
    """

    aggregation: Aggregation = "simple"
    ignore_labels: tuple[str, ...] = ("O",)

    @field_validator("ignore_labels", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value)


class EmbedSettings(Settings):
    """How a prompt becomes one vector, or one for each token.

    Attributes:
        pooling: the hidden state of the "last" token, the "mean" of all, that of the first ("cls"),
            or "none": one for each.
        normalize: give unit length; left out, that is done except for pooling "none".
        layer: of the hidden states, as transformers numbers them.
        dtype: of the column.
    """

    pooling: Pooling = "last"
    normalize: bool = True
    layer: int = -1
    dtype: EmbeddingDType = "float32"

    @model_validator(mode="before")
    @classmethod
    def _as_they_are(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pooling") == "none":
            return {"normalize": False, **values}
        return values


class Tasks(Settings):
    """What is computed for every row: at least one task, each at most once.

    A job file gives a list of one-key maps, `- generate: {max_tokens: 64}`; a task with nothing to
    set may stand alone, `- classify`.
    """

    generate: SamplingParams | None = None
    score_labels: LabelSettings | None = None
    classify: ClassifySettings | None = None
    tag_tokens: TagSettings | None = None
    embed: EmbedSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        tasks: dict[str, Any] = {}
        for item in value:
            entry = {item: {}} if isinstance(item, str) else item
            if not isinstance(entry, dict) or len(entry) != 1:
                raise ValueError(f"each task is one name with its settings, got {item!r}")
            ((name, settings),) = entry.items()
            if name in tasks:
                raise ValueError(f"{name} is there twice")
            tasks[name] = {} if settings is None else settings
        return tasks

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.names:
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}")
        if self.score_labels and self.classify:
            raise ValueError("score_labels and classify both fill the label columns: choose one")
        if self.generate and self.generate.n > 1:
            raise ValueError("generate.n must be 1 in a job: a row has one generated_text")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks asked for, in the order of their columns."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)
