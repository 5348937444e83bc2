"""What a path or URL of a user's names: local folders and S3, nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import s3fs
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

from .errors import StorageError
from .s3 import ENVIRONMENT, S3Settings

# What a folder or S3 raises when it can't be read or written.
STORE_ERRORS = (OSError, BotoCoreError)


@dataclass(frozen=True, slots=True)
class Location:
    """A file, folder or glob pattern: `scheme` is "file" or "s3", `path` has no scheme."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return self.path if self.scheme == "file" else f"s3://{self.path}"


def parse_location(url: str) -> Location:
    """Tell local paths and S3 URLs apart, and refuse everything that fsspec would open besides.

    Local paths become absolute, since workers run in folders of their own.

    Raises:
        StorageError: another scheme, a chained URL (`::`), or `..` in a key.
    """
    scheme, separator, rest = url.partition("://")
    if not url.strip() or "::" in url or "\0" in url:
        raise StorageError(f"{url!r} is no path: give a local path or s3://bucket/key")
    if not separator or scheme == "file":
        return Location("file", str(Path(rest if separator else url).expanduser().absolute()))
    if scheme != "s3":
        raise StorageError(f"{url}: {scheme}:// is not supported; give a local path or s3://...")
    parts = rest.strip("/").split("/")
    if not parts[0] or any(part in {"..", "."} for part in parts):
        raise StorageError(f"{url}: give s3://bucket/key, without '.' or '..' in it")
    return Location("s3", "/".join(parts))


def filesystem(scheme: str, s3: S3Settings = ENVIRONMENT) -> Any:
    """Give the fsspec filesystem of a location; S3 credentials come from the environment."""
    if scheme == "s3":
        return s3fs.S3FileSystem(use_listings_cache=False, **s3.client_options())
    return fsspec.filesystem("file")
