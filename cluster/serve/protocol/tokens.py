"""/tokenize and /detokenize."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from .base import MOST_TOKENS, Body, ModelName, Reply, Text, TokenId
from .chat import Messages


class TokenizeRequest(Body):
    """A text, or a conversation."""

    model: ModelName
    prompt: Text | None = None
    messages: Messages | None = Field(default=None, description="Instead of prompt.")
    add_special_tokens: bool | None = Field(
        default=None, description="Whether <bos> goes before a prompt; null: true."
    )
    continue_final_message: bool | None = Field(
        default=None, description="Leave the last message, the assistant's, open."
    )
    return_token_strs: bool | None = Field(default=None, description="Also tell their texts.")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.messages is not None and self.add_special_tokens is not None:
            raise ValueError("add_special_tokens is for prompt; the chat template has its own")
        if self.prompt is not None and self.continue_final_message is not None:
            raise ValueError("continue_final_message is for messages")
        return self


class TokenizeReply(Reply):
    """The tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    """Tokens."""

    model: ModelName
    tokens: Annotated[list[TokenId], Field(max_length=MOST_TOKENS)]


class DetokenizeReply(Reply):
    """Their text, control tokens spelled out."""

    prompt: str
