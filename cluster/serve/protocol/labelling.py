"""/v1/classify, /v1/score_labels and /v1/tag_tokens."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.tasks import Aggregation, FunctionToApply

from .base import MOST_ITEMS, Inputs, PromptUsage, Reply, Request, Text, Texts
from .chat import Messages
from .long_texts import LongTextReply, LongTextRequest

Label = Annotated[str, Field(min_length=1, max_length=1024)]


class _InputRequest(Request):
    """Takes plain inputs, or one conversation."""

    input: Inputs | None = Field(default=None, description="Texts or token ids, as they are.")
    messages: Messages | None = Field(
        default=None, description="A conversation, through the chat template. Instead of input."
    )

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give either input or messages")
        return self


class ClassifyRequest(_InputRequest, LongTextRequest):
    """Inputs for the classification head."""

    function_to_apply: FunctionToApply | None = Field(
        default=None,
        description="What makes scores of the head's outputs (null: default, which is what its "
        "problem type asks for).",
    )
    top_k: int | None = Field(
        default=None,
        ge=1,
        description="Report so many labels, best first (null: all, in the head's order).",
    )


class ScoreLabelsRequest(_InputRequest):
    """Inputs, and the labels whose likelihood as the answer is compared."""

    labels: Annotated[list[Label], Field(min_length=2, max_length=MOST_ITEMS)]
    normalize: Literal["sum", "mean"] | None = Field(
        default=None,
        description="Compare log-likelihoods (null: sum), or their means over a label's tokens.",
    )


class TagRequest(LongTextRequest):
    """Texts for the token classification head."""

    input: Text | Texts
    aggregation_strategy: Aggregation | None = Field(
        default=None, description="How tokens become spans, as in transformers (null: simple)."
    )
    ignore_labels: Annotated[list[Label], Field(max_length=MOST_ITEMS)] | None = Field(
        default=None, description='Labels that make no span (null: only "O").'
    )


class LabelScore(Reply):
    """A label and its probability."""

    label: str
    score: float


class Classification(LongTextReply):
    """The labels of one input; `logits` are what the scores were computed from."""

    object: Literal["classification"] = "classification"
    index: int
    label: str
    score: float
    scores: list[LabelScore]
    logits: list[float]


class ClassificationList(Reply):
    """The labels of each input."""

    object: Literal["list"] = "list"
    data: list[Classification]
    model: str
    usage: PromptUsage


class Entity(Reply):
    """A labelled span: characters [start, end) of the input; without aggregation, a token."""

    label: str
    start: int
    end: int
    text: str
    score: float


class Token(Entity):
    """A labelled token, and its place among those of the input."""

    index: int


class Tagging(LongTextReply):
    """The spans of one input, and the label of each of its tokens, <bos> included."""

    object: Literal["tagging"] = "tagging"
    index: int
    entities: list[Token] | list[Entity]
    token_labels: list[str]
    token_scores: list[float]


class TaggingList(Reply):
    """The spans of each input."""

    object: Literal["list"] = "list"
    data: list[Tagging]
    model: str
    usage: PromptUsage
