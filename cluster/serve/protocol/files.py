"""/v1/files."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .base import Reply

# Whatever is asked for; there is a next page then.
MOST_LISTED = 1000

Purpose = Literal["batch", "batch_output"]
Cursor = Annotated[str, Field(max_length=64)]


class Listing(BaseModel):
    """What the query of a list may say."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    after: Cursor | None = Field(default=None, description="The last id of the page before.")


class ListFiles(Listing):
    """Of /v1/files."""

    limit: int = Field(default=MOST_LISTED, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"
    purpose: Purpose | None = None


class FileObject(Reply):
    """A file, without its contents."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    expires_at: None = None


class FileList(Reply):
    """Some of a key's files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Reply):
    """That a file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
