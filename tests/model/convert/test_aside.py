"""Whatever ends a conversion early, nothing that looks like a checkpoint is left."""

import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from model.convert import Wishes, convert, safetensors_files
from model.convert.original import open_original
from model.errors import CheckpointError
from model.locate import locate

from .originals import gemma_pytorch, save_ckpt


@pytest.fixture
def source(reference: Any, config: Path, tmp_path: Path) -> Path:
    """A checkpoint with its config beside it, in a folder of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    shutil.copyfile(config, folder / "config.json")
    return save_ckpt(gemma_pytorch(reference), folder / "model.ckpt")


def child(work: Callable[[], Any]) -> int:
    """Run in a process of its own, and give its wait status; an error is status 1."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    try:
        work()
    except BaseException:  # noqa: BLE001 - the end of this process is all that may leave it
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    os._exit(0)


def on_second_shard(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    save, calls = safetensors_files.save_file, []

    def patched(tensors: Any, path: Path, **settings: Any) -> None:
        calls.append(path)
        save(tensors, path, **settings)
        if len(calls) == 2:
            act()

    monkeypatch.setattr(safetensors_files, "save_file", patched)


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link to nowhere"])
@pytest.mark.parametrize("to", ["transformers", "gemma-pytorch"])
def test_what_is_there_is_refused(
    kind: str, to: Any, source: Path, saved_reference: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new.ckpt"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link to nowhere":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    original = source if to == "transformers" else saved_reference
    with pytest.raises(CheckpointError, match="is there already"):
        convert(str(original), target, Wishes(to=to))
    assert sorted(tmp_path.rglob("*")) == before


def test_killed_half_way(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_second_shard(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    target = tmp_path / "out" / "new"
    wishes = Wishes(max_shard_bytes=40_000)
    status = child(lambda: convert(str(source), target, wishes))
    assert os.WIFSIGNALED(status)
    assert not target.exists()
    (left,) = (tmp_path / "out").iterdir()
    assert left.name.startswith(".new.")
    assert left.name.endswith(".partial")
    assert list(left.rglob("*.safetensors"))
    for folder in (left, left / "content"):
        with pytest.raises(CheckpointError):
            locate(str(folder))
        with pytest.raises(CheckpointError):
            open_original(str(folder), None)
    monkeypatch.undo()
    convert(str(source), target, wishes)  # what is left is in nobody's way
    assert locate(str(target)) == target


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted(
    error: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> NoReturn:
        raise error

    on_second_shard(monkeypatch, fail)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else CheckpointError
    with pytest.raises(expected) as caught:
        convert(str(source), tmp_path / "out" / "new", Wishes(max_shard_bytes=40_000))
    if expected is CheckpointError:
        assert str(caught.value).endswith("can't be written: [Errno 28] No space left on device")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("to", "target"),
    [("transformers", "new"), ("gemma-pytorch", "new"), ("gemma-pytorch", "new.ckpt")],
)
def test_no_space(
    to: Any, target: str, source: Path, saved_reference: Path, tmp_path: Path
) -> None:
    """The libraries that write meet a file that may not grow: each has errors of its own."""
    original = source if to == "transformers" else saved_reference
    place = tmp_path / "out" / target

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with pytest.raises(CheckpointError, match="can't be written") as caught:
            convert(str(original), place, Wishes(to=to))
        assert "\n" not in str(caught.value)

    assert child(limited) == 0
    assert list((tmp_path / "out").iterdir()) == []


def test_no_space_is_seen_beforehand(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"would take \d{3},\d{3} bytes, and 1,000 are free"):
        convert(str(source), tmp_path / "out" / "new")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_permission(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can't be written"):
        convert(str(source), tmp_path / "file" / "new")


def test_modes_are_the_users(source: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        convert(str(source), tmp_path / "new")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750
    for path in (tmp_path / "new").iterdir():
        assert path.stat().st_mode & 0o777 == 0o640, path
