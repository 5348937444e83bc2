"""A store on S3: its promises rest on conditional writes."""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from .locations import filesystem
from .s3 import ENVIRONMENT, S3Settings

CONFLICT_RETRIES = 5
# S3's error codes, or the HTTP status of stores that give no code.
TAKEN = {"PreconditionFailed", "412"}
CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
NO_IF_MATCH = {"NotImplemented", "InvalidArgument", "501"}
# An upload in parts that was completed already, by a request whose reply was lost.
ENDED = {"NoSuchUpload"}


@dataclass(frozen=True)
class S3Store:
    """An S3 prefix. Pickles as its URL and settings: each process makes its own client."""

    url: str
    s3: S3Settings = ENVIRONMENT

    @property
    def _fs(self) -> Any:
        return filesystem("s3", self.s3)  # fsspec keeps one instance per process and settings

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Put with `If-None-Match: *`, in one request or as a multipart upload."""
        path = f"{self.url}/{name}"
        for attempt in range(CONFLICT_RETRIES):
            try:
                self._fs.pipe_file(path, data, mode="create")
            except OSError as error:
                code = _s3_code(error)
                if isinstance(error, FileExistsError) or code in TAKEN:
                    # The reply to our own put may have been lost and the client have tried again.
                    return self.read(name) == data
                if code in ENDED:
                    with contextlib.suppress(FileNotFoundError):
                        return self.read(name) == data
                if code not in CONFLICT | ENDED or attempt == CONFLICT_RETRIES - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            else:
                return True
        raise AssertionError("unreachable")

    def version(self, name: str) -> str:
        """Give the ETag."""
        return str(self._fs.info(f"{self.url}/{name}", refresh=True)["ETag"])

    def replace(self, name: str, data: bytes, version: str) -> bool:
        """Put with `If-Match`; without it where the store does not know that header."""
        bucket, key, _ = self._fs.split_path(f"{self.url}/{name}")
        put = partial(self._fs.call_s3, "put_object", Bucket=bucket, Key=key, Body=data)
        for attempt in range(CONFLICT_RETRIES):
            try:
                put(IfMatch=version)
            except (OSError, ClientError) as error:
                code = _s3_code(error)
                if isinstance(error, FileExistsError) or code in TAKEN:
                    # The reply to our own put may have been lost and the client have tried again.
                    return self.read(name) == data
                if code in NO_IF_MATCH:
                    put()
                    return True
                if code not in CONFLICT or attempt == CONFLICT_RETRIES - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            else:
                return True
        raise AssertionError("unreachable")

    def write(self, name: str, pieces: Iterable[bytes]) -> int:
        """Put it in one request, or as a multipart upload that is completed at its end."""
        file = self._fs.open(f"{self.url}/{name}", "wb")
        try:
            size: int = sum(map(file.write, pieces))
        except BaseException:
            file.discard()
            file.closed = True  # or it would make an object of what there is so far, at last
            raise
        file.close()
        return size

    def names(self, folder: str = "") -> set[str]:
        """List the files directly in the folder."""
        try:
            entries = self._fs.ls(f"{self.url}/{folder}".rstrip("/"), detail=True, refresh=True)
        except FileNotFoundError:
            return set()
        return {entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file"}

    def sweep(self) -> None:
        """Nothing is written aside here."""

    def read(self, name: str) -> bytes:
        """Give a file's contents."""
        return cast("bytes", self._fs.cat_file(f"{self.url}/{name}"))

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return cast("BinaryIO", self._fs.open(f"{self.url}/{name}", "rb"))

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self.url}/{name}")


def _s3_code(error: Exception) -> str:
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(cause, ClientError):
        return str(cause.response.get("Error", {}).get("Code", ""))
    return ""
