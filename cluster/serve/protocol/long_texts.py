"""What requests say of texts that are too long, and replies of what became of them."""

from pydantic import Field

from model.long_texts import LongTexts, LongTextsMode

from .base import Reply, Request


def _unasked(value: object) -> bool:
    return value is None


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

    truncated: bool | None = Field(default=None, exclude_if=_unasked)
    windows: int | None = Field(default=None, exclude_if=_unasked)
