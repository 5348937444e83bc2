"""/v1/embeddings."""

from typing import ClassVar, Literal

from pydantic import Field

from model.tasks import Pooling

from .base import Inputs, PromptUsage, Reply
from .long_texts import LongTextReply, LongTextRequest


class EmbeddingRequest(LongTextRequest):
    """Texts to be turned into vectors."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"dimensions"})

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64 is that of little-endian float32; null: float."
    )
    pooling: Pooling | None = Field(
        default=None,
        description="The hidden state of the last token (null), the mean of all, that of the first "
        "(cls), or one for each (none).",
    )
    normalize: bool | None = Field(
        default=None, description="Give unit length; null: true, but false with pooling none."
    )
    layer: int | None = Field(
        default=None,
        description="Of the hidden states as transformers numbers them; null: -1, after the norm.",
    )


class Embedding(LongTextReply):
    """One vector; with pooling none one for each token, in base64 end to end."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | list[list[float]] | str


class EmbeddingList(Reply):
    """A vector for each input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: PromptUsage
