"""/v1/batches."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .base import Body, Reply
from .files import Listing

BatchUrl = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
Ended = Literal["completed", "failed", "expired", "cancelled"]
Status = Literal["validating", "in_progress", "finalizing", "cancelling"] | Ended

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]


class CreateBatch(Body):
    """A batch to be run."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"output_expires_after"})

    input_file_id: str = Field(max_length=64, description="An uploaded file of requests.")
    endpoint: BatchUrl
    completion_window: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}h$")] = Field(
        description="Hours; what is not computed by then is not computed at all. OpenAI's is 24h."
    )
    metadata: Metadata | None = None

    @property
    def window_s(self) -> int:
        """Its window in seconds."""
        return 3600 * int(self.completion_window.removesuffix("h"))


class ListBatches(Listing):
    """What the query of a list may say."""

    limit: int = Field(default=20, ge=1, le=100)


class BatchFinding(Reply):
    """Why a batch can't be run."""

    code: str
    message: str
    line: int | None = Field(default=None, description="Of the input file, from 1 on.")
    param: str | None = None


class BatchFindings(Reply):
    """All of them, or the first."""

    object: Literal["list"] = "list"
    data: list[BatchFinding]


class RequestCounts(Reply):
    """Lines of the input file, and what became of them so far."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Reply):
    """A batch and how far it is; times are in seconds since 1970."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: BatchUrl
    errors: BatchFindings | None = None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = Field(default_factory=RequestCounts)
    metadata: Metadata | None = None


class BatchList(Reply):
    """Some of a key's batches, the latest first."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
