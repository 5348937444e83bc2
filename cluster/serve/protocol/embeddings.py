"""/v1/embeddings."""

from typing import ClassVar, Literal

from pydantic import Field

from .base import Inputs, PromptUsage, Reply, Request


class EmbeddingRequest(Request):
    """Texts to be turned into vectors."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"dimensions"})

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64 is that of little-endian float32; null: float."
    )
    pooling: Literal["last", "mean"] | None = Field(
        default=None, description="The hidden state of the last token (null), or the mean of all."
    )
    normalize: bool | None = Field(default=None, description="Give unit length; null: true.")


class Embedding(Reply):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(Reply):
    """A vector for each input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: PromptUsage
