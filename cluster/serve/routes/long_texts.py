"""Texts that are too long, on their way in and out of routes."""

from typing import Any

from actors.calls import PromptAnswer
from cluster.serve.errors import bad_request
from cluster.serve.protocol.long_texts import LongTextRequest
from model.errors import ParameterError
from model.long_texts import LongTexts


def long_texts_of(body: LongTextRequest) -> LongTexts:
    """Give what a request says of them. Raises ApiError."""
    try:
        return body.cut()
    except ParameterError as error:
        raise bad_request(str(error), param="stride") from None


def what_became(body: LongTextRequest, answer: PromptAnswer) -> dict[str, Any]:
    """Give the fields of LongTextReply."""
    return {
        "truncated": answer.truncated if body.long_texts == "truncate" else None,
        "windows": answer.windows if body.long_texts == "stride" else None,
    }
