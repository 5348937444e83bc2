"""Writing beside the place where something is to be, and putting it there when it is whole."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from model.errors import CheckpointError


def refuse_taken(target: Path) -> None:
    """Make sure that nothing is replaced.

    Raises:
        CheckpointError: something is there.
    """
    if os.path.lexists(target):
        raise CheckpointError(f"{target} is there already; name another, or remove it first")


@contextlib.contextmanager
def written_aside(target: Path, nbytes: int) -> Iterator[Path]:
    """Give a path to write a file or a folder to; afterwards it is synced and renamed to `target`.

    Whatever ends the writing early takes what was written along. A process that is killed leaves a
    hidden folder `.NAME.*.partial` beside the target, which may be deleted.

    Args:
        target: it must not exist; its parent is made if it has to be.
        nbytes: about to be written.

    Raises:
        CheckpointError: the target is there already, there is no room, or writing failed.
    """
    refuse_taken(target)
    hidden = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target, nbytes)
        hidden.mkdir()
        try:
            content = hidden / "content"
            yield content
            _finish(content, _usual_mode(hidden))
            if os.path.lexists(target):
                raise CheckpointError(
                    f"{target} has come into being meanwhile; nothing is replaced"
                )
            content.rename(target)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        _sync_one(target.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target} can't be written: {_first_line(error)}") from None


def _check_room(target: Path, nbytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if nbytes > free:
        raise CheckpointError(
            f"{target} would take {nbytes:,} bytes, and {free:,} are free in {target.parent}"
        )


def _usual_mode(folder: Path) -> int:
    """The mode that a new file gets here; safetensors keeps its files from everybody else."""
    file = folder / "mode"
    file.touch()
    return file.stat().st_mode & 0o777


def _finish(content: Path, mode: int) -> None:
    """Have it on the disk before its name is, so that a power cut leaves it whole or not at all."""
    if content.is_file():
        content.chmod(mode)
        _sync_one(content)
    for folder, _, files in os.walk(content):
        for file in files:
            path = Path(folder, file)
            path.chmod(mode)
            _sync_one(path)
        _sync_one(Path(folder))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
