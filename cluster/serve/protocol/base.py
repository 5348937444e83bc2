"""What all requests have in common: strict fields, bounded numbers, and refusals by name."""

import time
import uuid
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# Of lists in a request, whatever the server's own limits are.
MOST_ITEMS = 2048
MOST_CHARACTERS = 1 << 24
MOST_TOKENS = 1 << 20

UNSUPPORTED = "unsupported_field"

ModelName = Annotated[str, Field(min_length=1, max_length=256, description="A served model.")]
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_TOKENS)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_ITEMS)]
ManyTokenIds = Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_ITEMS)]
Inputs = Text | Texts | TokenIds | ManyTokenIds


class Body(BaseModel):
    """A part of a request. What it does not know, it refuses.

    Fields of OpenAI's that are not supported here may be there as null, as clients that fill up a
    fixed schema send them; with any other value they are refused in words that say so.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    unsupported: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_unsupported(cls, values: Any) -> Any:
        if not isinstance(values, dict) or cls.unsupported.isdisjoint(values):
            return values
        for name in sorted(cls.unsupported & values.keys()):
            if values[name] is not None:
                raise PydanticCustomError(
                    UNSUPPORTED, "{name} is not supported by this server", {"name": name}
                )
        return {name: value for name, value in values.items() if name not in cls.unsupported}


class Request(Body):
    """A whole request body.

    Attributes:
        model: a served model.
        timeout: seconds after which it is given up, if not the server's own limit sooner.
        user: accepted, as it changes nothing; not stored.
    """

    model: ModelName
    timeout: float | None = Field(
        default=None, gt=0, le=86400, description="Give up after this many seconds."
    )
    user: str | None = Field(default=None, max_length=512, description="Changes nothing.")


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool | None = Field(default=None, description="A last chunk counts the tokens.")


class Reply(BaseModel):
    """A part of a response."""

    model_config = ConfigDict(protected_namespaces=(), hide_input_in_errors=True)


class Usage(Reply):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int, completion: int) -> "Usage":
        """Add them up."""
        return cls(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )


class PromptUsage(Reply):
    """Tokens of a request that generates none."""

    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int) -> "PromptUsage":
        """Count them twice, as OpenAI does."""
        return cls(prompt_tokens=prompt, total_tokens=prompt)


class ErrorDetail(Reply):
    """What is wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Reply):
    """An error, as OpenAI's clients read it."""

    error: ErrorDetail


FinishReason = Literal["stop", "length"]


def new_id(prefix: str) -> str:
    """Make the id of a response."""
    return f"{prefix}-{uuid.uuid4().hex}"


def now() -> int:
    """Give the time as responses tell it: whole seconds since 1970."""
    return int(time.time())
