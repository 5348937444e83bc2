"""Copies of S3 checkpoints on the local disk, shared by the processes of a machine."""

import hashlib
import json
import logging
import os
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import s3fs
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from filelock import FileLock

from .errors import CheckpointError

log = logging.getLogger(__name__)


class Remote(NamedTuple):
    """One object below a prefix."""

    name: str
    size: int
    etag: str


def fetch_folder(uri: str, patterns: Collection[str]) -> Path:
    """Copy the objects directly below an s3:// prefix into the cache, unless they are there.

    A copy belongs to one URI and the names, sizes and ETags of its objects: a changed checkpoint is
    fetched anew, an unchanged one never twice. Processes that want the same one take turns, and
    what they see is always whole. A fetch that was cut off goes on with the objects it still lacks.

    Args:
        uri: `s3://bucket/prefix`. Endpoint and credentials come from the environment, as for every
            AWS client.
        patterns: of the object names to copy.

    Raises:
        CheckpointError: nothing is there, it can't be read, or it changed meanwhile.
    """
    prefix = uri.removeprefix("s3://").strip("/")
    # Other processes, or a run before this one in a long-lived process, may have changed it.
    store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    try:
        remotes = _list(store, prefix, patterns)
        if not remotes:
            raise CheckpointError(f"{uri} holds no checkpoint: there is no {', '.join(patterns)}")
        folder = _cache() / "s3" / _key(uri, remotes)
        if folder.exists():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                aside = Path(f"{folder}.partial")
                _download(store, prefix, remotes, aside)
                if _list(store, prefix, patterns) != remotes:
                    raise CheckpointError(f"{uri} changed while it was being fetched; start again")
                aside.rename(folder)
    except FileNotFoundError:
        raise CheckpointError(f"{uri} does not exist") from None
    except (OSError, BotoCoreError) as error:
        raise CheckpointError(
            f"{uri} can't be fetched: {error} (endpoint and credentials come from the environment)"
        ) from None
    return folder


def _cache() -> Path:
    return Path(os.environ.get("GEMMARAY_CACHE") or "~/.cache/gemmaray").expanduser()


def _list(store: s3fs.S3FileSystem, prefix: str, patterns: Collection[str]) -> list[Remote]:
    """List the wanted objects directly below the prefix, sorted by name."""
    remotes = [
        Remote(entry["name"].removeprefix(f"{prefix}/"), entry["size"], entry["ETag"])
        for entry in store.ls(prefix, detail=True, refresh=True)
        if entry["type"] == "file"
    ]
    return sorted(
        remote
        for remote in remotes
        if "/" not in remote.name and any(fnmatch(remote.name, pattern) for pattern in patterns)
    )


def _key(uri: str, remotes: list[Remote]) -> str:
    return hashlib.sha256(json.dumps([uri, remotes]).encode()).hexdigest()[:32]


def _download(store: s3fs.S3FileSystem, prefix: str, remotes: list[Remote], folder: Path) -> None:
    """Fetch the objects that the folder lacks; a file gets its name when it is whole."""
    folder.mkdir(exist_ok=True)
    for remote in remotes:
        path = folder / remote.name
        if path.exists():
            continue
        log.info("fetching %s (%d bytes) from s3://%s", remote.name, remote.size, prefix)
        partial = folder / f"{remote.name}.partial"
        store.get_file(f"{prefix}/{remote.name}", partial)
        if partial.stat().st_size != remote.size:
            raise OSError(f"{remote.name} broke off at {partial.stat().st_size} bytes")
        partial.rename(path)
