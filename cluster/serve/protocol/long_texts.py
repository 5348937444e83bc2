"""What requests say of texts that are too long, and replies of what became of them."""

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from model.long_texts import LongTexts, LongTextsMode

from .base import Reply, Request


class LongTextRequest(Request):
    """Says what becomes of inputs of more tokens than the model takes."""

    long_texts: LongTextsMode | None = Field(
        default=None,
        description="Refuse inputs that are too long (null: error), cut them off, or compute them "
        "in windows.",
    )
    stride: int | None = Field(
        default=None, ge=0, description="Tokens that neighbouring windows share."
    )

    def cut(self) -> LongTexts:
        """Give it as the engine takes it. Raises ParameterError."""
        return LongTexts(self.long_texts or "error", self.stride)


class LongTextReply(Reply):
    """Says if an input was too long, where that is no error.

    Attributes:
        truncated: with long_texts: truncate, whether its end was left out.
        windows: with long_texts: stride, in how many it was computed.
    """

    truncated: bool | None = None
    windows: int | None = None

    @model_serializer(mode="wrap")
    def _where_asked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        unasked = [name for name in ("truncated", "windows") if values.get(name) is None]
        return {name: value for name, value in values.items() if name not in unasked}
