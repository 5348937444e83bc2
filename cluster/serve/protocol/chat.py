"""/v1/chat/completions: requests, answers, and the chunks of a stream."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from .base import MOST_ITEMS, Body, FinishReason, Reply, Text, Usage
from .sampling import MaxTokens, SamplingRequest


class TextPart(Body):
    """A part of a message; Gemma 2 reads text only."""

    type: Literal["text"]
    text: Text


class Message(Body):
    """One message of a conversation."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {"name", "refusal", "audio", "function_call", "tool_calls", "tool_call_id", "annotations"}
    )

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_ITEMS)]
    type: Literal["text"] | None = Field(
        default=None, description="Changes nothing; lm-evaluation-harness sends it."
    )

    def plain(self) -> dict[str, object]:
        """Give the message as the chat template takes it."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        parts = [{"type": part.type, "text": part.text} for part in self.content]
        return {"role": self.role, "content": parts}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MOST_ITEMS)]


class ChatRequest(SamplingRequest):
    """A conversation to be answered."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {
            "audio",
            "function_call",
            "functions",
            "guided_grammar",
            "modalities",
            "parallel_tool_calls",
            "prediction",
            "prompt_cache_key",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "structured_outputs",
            "tool_choice",
            "tools",
            "verbosity",
            "web_search_options",
        }
    )

    messages: Messages
    max_completion_tokens: Annotated[MaxTokens, Field(ge=1)] | None = Field(
        default=None, description="Null: as many as the model's length leaves."
    )
    max_tokens: Annotated[MaxTokens, Field(ge=1)] | None = Field(
        default=None, description="The old name of max_completion_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    continue_final_message: bool | None = Field(
        default=None, description="Carry on with the last message, the assistant's."
    )
    metadata: dict[str, str] | None = Field(
        default=None, max_length=16, description="Changes nothing; it is not stored."
    )
    store: Literal[False] | None = Field(default=None, description="Nothing is ever stored.")

    @field_validator("max_tokens")
    @classmethod
    def _one_limit(cls, value: int | None, info: Any) -> int | None:
        other = info.data.get("max_completion_tokens")
        if value is not None and other is not None and other != value:
            raise ValueError("differs from max_completion_tokens: give one of the two")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _of_logprobs(cls, value: int | None, info: Any) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("is only possible with logprobs: true")
        return value

    @property
    def limit(self) -> int | None:
        """Tokens of each answer at most."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens to tell; None where no log-probability is wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TopLogprob(Reply):
    """A token that might have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Reply):
    """The tokens of an answer or chunk."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(Reply):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Reply):
    """One of n answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Reply):
    """The answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Reply):
    """What a chunk adds to a message; the first one has the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _what_is_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A client may take the role of any chunk that has one, so null is not sent.
        return {name: value for name, value in dump(self).items() if value is not None}


class ChunkChoice(Reply):
    """What a chunk adds to one of n answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Reply):
    """One event of a stream. `usage` is there if it was asked for, null in all but the last."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
