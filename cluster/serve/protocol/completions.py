"""/v1/completions: requests and answers; the chunks of a stream have the same shape."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .base import FinishReason, Inputs, Reply, Usage
from .sampling import MaxTokens, SamplingRequest

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(SamplingRequest):
    """Prompts to be continued."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {
            "best_of",
            "guided_grammar",
            "structured_outputs",
            "suffix",
        }
    )

    prompt: Inputs = Field(
        description="A text, a list of texts, the token ids of one, or of each of many."
    )
    max_tokens: Annotated[MaxTokens, Field(ge=0)] | None = Field(
        default=None, description="Null: 16. 0 needs echo: then the prompt alone is scored."
    )
    echo: bool | None = Field(default=None, description="Put the prompt before the answer.")
    logprobs: int | None = Field(
        default=None, ge=0, le=100, description="Tell this many of the likeliest tokens, too."
    )
    add_special_tokens: bool | None = Field(
        default=None, description="Whether <bos> goes before a text; null: true."
    )

    @property
    def limit(self) -> int:
        """Tokens of each answer at most."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens


class CompletionLogprobs(Reply):
    """The tokens of an answer: four lists of the same length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Reply):
    """One of n answers to one of the prompts; `index` counts all of them."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Reply):
    """The answers, or what a chunk adds to them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
