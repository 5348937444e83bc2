import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import s3fs
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import load_file

import model.locate
from model.errors import CheckpointError, ParameterError
from model.identity import identify
from model.locate import hub_commit, locate, locate_adapter
from model.weight_files import INDEX, SINGLE
from tests.conftest import Bucket

from .checkpoints import small_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return small_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEMMARAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class TestLocal:
    def test_a_folder_is_itself(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert locate(str(checkpoint)) == checkpoint
        assert locate(f"file://{checkpoint}") == checkpoint
        monkeypatch.chdir(checkpoint.parent)
        assert locate("checkpoint") == Path("checkpoint")
        monkeypatch.setenv("HOME", str(checkpoint.parent))
        assert locate("~/checkpoint") == checkpoint

    def test_a_folder_goes_before_a_hub_id(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(checkpoint.parent)
        (checkpoint.parent / "google").mkdir()
        checkpoint.rename("google/gemma-2-2b")
        assert locate("google/gemma-2-2b") == Path("google/gemma-2-2b")

    @pytest.mark.parametrize(
        ("checkpoint", "told"),
        [
            ("", "can't name a checkpoint"),
            ("http://example.com/model", "can't name a checkpoint"),
            ("gs://bucket/model", "can't name a checkpoint"),
            ("simplecache::s3://bucket/model", "can't name a checkpoint"),
            ("zip://x::file:///tmp/x.zip", "can't name a checkpoint"),
            ("s3://bucket/../other", r"must not contain '\.\.'"),
            ("../model", r"must not contain '\.\.'"),
            ("a\\..\\b", r"must not contain '\.\.'"),
            ("/no/such/folder", "no folder here, no hub id"),
            ("gemma-2-2b", "no folder here, no hub id"),
            ("a/b/c", "no folder here, no hub id"),
            ("nul\0byte", "no folder here, no hub id"),
            ("~nobody-of-this-name/model", "can't be read"),
            ("file:///no/such/folder", "is not a folder"),
        ],
    )
    def test_what_is_no_checkpoint(self, checkpoint: str, told: str) -> None:
        with pytest.raises(CheckpointError, match=told) as caught:
            locate(checkpoint)
        assert "\n" not in str(caught.value)

    def test_a_file_is_not_a_folder(self, checkpoint: Path) -> None:
        with pytest.raises(CheckpointError, match=r"is not a folder; .*config\.json"):
            locate(str(checkpoint / "config.json"))

    def test_incomplete_folders(self, checkpoint: Path) -> None:
        (checkpoint / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            locate(str(checkpoint))
        (checkpoint / SINGLE).rename(checkpoint / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="pickled checkpoints can run code"):
            locate(str(checkpoint))

    def test_weights_are_asked_for_only_where_they_are_needed(self, checkpoint: Path) -> None:
        (checkpoint / SINGLE).unlink()
        assert locate(str(checkpoint), weights=False) == checkpoint
        with pytest.raises(CheckpointError, match="holds no weights"):
            locate(str(checkpoint))

    @pytest.mark.parametrize("checkpoint_name", ["folder", "s3://bucket/x"])
    def test_a_revision_is_for_the_hub(self, checkpoint: Path, checkpoint_name: str) -> None:
        name = checkpoint_name.replace("folder", str(checkpoint))
        with pytest.raises(ParameterError, match="revision is for hub ids only"):
            locate(name, revision="main")


class TestHub:
    @pytest.fixture
    def hub_cache(self, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A hub cache as huggingface_hub lays it out, of one repository, and no network."""
        repo = tmp_path / "hub" / "models--org--gemma"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(COMMIT)
        (repo / "refs" / "v1").write_text(COMMIT)
        shutil.copytree(checkpoint, repo / "snapshots" / COMMIT)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        return repo

    @pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
    def test_reads_the_cache(self, hub_cache: Path, revision: str | None) -> None:
        folder = locate("org/gemma", revision)
        assert folder == hub_cache / "snapshots" / COMMIT
        assert hub_commit(folder) == COMMIT

    def test_reads_the_cache_that_the_environment_names(self, hub_cache: Path) -> None:
        code = "from model.locate import locate; print(locate('org/gemma'))"
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub_cache.parent)}
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == str(hub_cache / "snapshots" / COMMIT)

    @pytest.mark.parametrize("name", [("org/other", None), ("org/gemma", "v2")])
    def test_not_in_the_cache(self, hub_cache: Path, name: tuple[str, str | None]) -> None:
        with pytest.raises(CheckpointError, match=r"org/.* nor wholly in the hub's cache.*OFFLINE"):
            locate(*name)

    def test_a_snapshot_without_weights(self, hub_cache: Path) -> None:
        (hub_cache / "snapshots" / COMMIT / SINGLE).unlink()
        with pytest.raises(CheckpointError, match="holds no weights"):
            locate("org/gemma")

    @pytest.mark.parametrize("weights", [True, False])
    def test_fetches_only_what_is_read(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *, weights: bool
    ) -> None:
        asked: dict[str, Any] = {}

        def snapshot_download(repo: str, **options: Any) -> str:
            asked.update(options, repo=repo)
            return str(checkpoint)

        monkeypatch.setattr(model.locate, "snapshot_download", snapshot_download)
        assert locate("org/gemma", "v3", weights=weights) == checkpoint
        assert asked["repo"] == "org/gemma"
        assert asked["revision"] == "v3"
        names = ["config.json", INDEX, "tokenizer.model", "chat_template.jinja"]
        names += ["model-1.safetensors"] * weights
        others = [
            *["model-1.safetensors"] * (not weights),
            "pytorch_model.bin",
            "modeling.py",
            "a.gguf",
            "original/x.safetensors",
            "a/b.json",
        ]
        kept = filter_repo_objects(
            names + others,
            allow_patterns=asked["allow_patterns"],
            ignore_patterns=asked["ignore_patterns"],
        )
        assert list(kept) == names

    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            (GatedRepoError, r"org/gemma is gated: accept .*huggingface\.co/org/gemma .*HF_TOKEN"),
            (RepositoryNotFoundError, "neither a folder here nor a model on the hub .*HF_TOKEN"),
            (RevisionNotFoundError, "org/gemma has no revision 'v9' on the hub"),
            (LocalEntryNotFoundError, "at revision v9 is neither .*hub can't be reached"),
            (HfHubHTTPError, "org/gemma at revision v9 can't be fetched from the hub: first line$"),
            (EntryNotFoundError, "can't be fetched from the hub: first line$"),
            (OfflineModeIsEnabled, "can't be fetched from the hub: first line$"),
            (OSError, "can't be fetched from the hub: first line$"),
            (ValueError, "can't be fetched from the hub: first line$"),
        ],
    )
    def test_errors_are_one_line(
        self, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], told: str
    ) -> None:
        error = kind.__new__(kind)
        Exception.__init__(error, "first line\nsecond line")

        def snapshot_download(*args: Any, **options: Any) -> str:
            raise error

        monkeypatch.setattr(model.locate, "snapshot_download", snapshot_download)
        with pytest.raises(CheckpointError, match=told) as caught:
            locate("org/gemma", "v9")
        assert "\n" not in str(caught.value)

    def test_adapters_have_their_revision_behind_an_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, str | None]] = []

        def snapshot_download(repo: str, revision: str | None, **_: Any) -> str:
            asked.append((repo, revision))
            return str(tmp_path)

        monkeypatch.setattr(model.locate, "snapshot_download", snapshot_download)
        (tmp_path / "adapter_config.json").write_text("{}")
        assert locate_adapter("org/adapter") == tmp_path
        assert locate_adapter("org/adapter@v3") == tmp_path
        assert asked == [("org/adapter", None), ("org/adapter", "v3")]

    def test_no_other_folder_is_a_snapshot(self, checkpoint: Path) -> None:
        assert hub_commit(checkpoint) is None
        assert hub_commit(Path("snapshots/main")) is None


def fetched(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Names of the objects that were copied, by the log."""
    records = [record for record in caplog.records if record.name == "model.s3_cache"]
    return [str(record.args[0]) for record in records if isinstance(record.args, tuple)]


class TestS3:
    @pytest.fixture
    def uri(self, s3: Bucket, checkpoint: Path) -> str:
        for path in checkpoint.iterdir():
            s3.fs.put_file(str(path), f"{s3.bucket}/models/gemma/{path.name}")
        s3.fs.pipe_file(f"{s3.bucket}/models/gemma/pytorch_model.bin", b"pickle")
        s3.fs.pipe_file(f"{s3.bucket}/models/gemma/original/x.safetensors", b"elsewhere")
        s3.fs.pipe_file(f"{s3.bucket}/models/gemma-other/config.json", b"{}")
        return s3.url("models/gemma")

    def test_copies_what_is_read(self, uri: str, checkpoint: Path, cache: Path) -> None:
        folder = locate(uri)
        assert folder.is_relative_to(cache)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in checkpoint.iterdir()
        }
        assert identify(folder) == identify(checkpoint)

    def test_copies_no_weights_that_nobody_wants(self, uri: str) -> None:
        folder = locate(uri, weights=False)
        assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json"}
        assert (locate(uri) / SINGLE).exists()

    def test_a_whole_bucket_is_a_prefix_too(self, s3: Bucket, checkpoint: Path) -> None:
        for path in checkpoint.iterdir():
            s3.fs.put_file(str(path), f"{s3.bucket}/{path.name}")
        assert (locate(f"s3://{s3.bucket}/") / SINGLE).exists()

    def test_is_fetched_once_by_many(self, uri: str, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO", logger="model.s3_cache"), ThreadPoolExecutor(4) as pool:
            folders = set(pool.map(locate, [uri] * 4))
        assert len(folders) == 1
        assert locate(uri) in folders
        assert fetched(caplog) == ["config.json", SINGLE, "tokenizer.json"]

    def test_processes_share_the_cache(self, uri: str) -> None:
        code = f"from model.locate import locate; print(locate({uri!r}))"
        jobs = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        folders = {job.communicate()[0].strip() for job in jobs}
        assert folders == {str(locate(uri))}

    def test_a_changed_checkpoint_is_another_one(self, s3: Bucket, uri: str) -> None:
        before = locate(uri)
        s3.fs.pipe_file(f"{uri}/tokenizer.json", b"{ }")
        after = locate(uri)
        assert after != before
        assert (before / "tokenizer.json").read_text() == "{}"
        assert (after / "tokenizer.json").read_text() == "{ }"

    def test_goes_on_after_a_fetch_that_broke_off(
        self,
        uri: str,
        cache: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        get_file = s3fs.S3FileSystem.get_file

        def broken(store: s3fs.S3FileSystem, remote: str, local: Path) -> None:
            if remote.endswith(SINGLE):
                Path(local).write_bytes(b"half")
                raise OSError("connection reset")
            get_file(store, remote, local)

        with monkeypatch.context() as patch:
            patch.setattr(s3fs.S3FileSystem, "get_file", broken)
            with pytest.raises(CheckpointError, match=f"{uri} can't be fetched: connection reset"):
                locate(uri)
        (leftover,) = (cache / "s3").glob("*.partial")
        with caplog.at_level("INFO", logger="model.s3_cache"):
            folder = locate(uri)
        assert fetched(caplog) == [SINGLE, "tokenizer.json"]
        assert folder == leftover.with_suffix("")
        assert not leftover.exists()
        assert load_file(folder / SINGLE).keys() == {"model.norm.weight", "model.w"}

    def test_a_short_object_is_noticed(
        self, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def short(store: s3fs.S3FileSystem, remote: str, local: Path) -> None:
            Path(local).write_bytes(b"x")

        monkeypatch.setattr(s3fs.S3FileSystem, "get_file", short)
        with pytest.raises(CheckpointError, match=r"config\.json broke off at 1 bytes"):
            locate(uri)

    def test_a_change_under_way_is_noticed(
        self, s3: Bucket, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        get_file = s3fs.S3FileSystem.get_file

        def late(store: s3fs.S3FileSystem, remote: str, local: Path) -> None:
            get_file(store, remote, local)
            s3.fs.pipe_file(f"{uri}/config.json", b'{"model_type": "gemma2"} ')

        monkeypatch.setattr(s3fs.S3FileSystem, "get_file", late)
        with pytest.raises(CheckpointError, match="changed while it was being fetched"):
            locate(uri)

    def test_what_is_not_there(self, s3: Bucket, uri: str) -> None:
        with pytest.raises(CheckpointError, match=r"/models/nothing does not exist$"):
            locate(s3.url("models/nothing"))
        with pytest.raises(CheckpointError, match=r"s3://no-such-bucket/x does not exist$"):
            locate("s3://no-such-bucket/x")
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            locate(s3.url("models"))
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.* holds no checkpoint"):
            locate(f"{uri}/pytorch_model.bin")

    def test_access_denied(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*args: Any, **options: Any) -> None:
            raise PermissionError("Access Denied")

        monkeypatch.setattr(s3fs.S3FileSystem, "ls", denied)
        with pytest.raises(CheckpointError, match=r"can't be fetched: Access Denied .*credent"):
            locate(uri)

    def test_no_credentials(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(CheckpointError, match=r"can't be fetched: .*credentials"):
            locate(uri)
