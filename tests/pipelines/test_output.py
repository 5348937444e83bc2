from pathlib import Path

import pytest

from pipelines import JobError, JobSpec, StorageError
from pipelines.jobfile import JOB_NAME, load_job, save_job
from pipelines.local_store import LocalStore
from pipelines.output import DamagedPartError, open_output
from pipelines.storage import open_store
from tests.conftest import Bucket

from .data import spec
from .outputs import make_output

JOBS = [
    spec(),
    spec(
        prompt=None,
        messages="m",
        keep=["a", "b"],
        limit=5,
        resources={"replicas": "1..3", "dtype": "float32"},
        tasks=[
            {
                "generate": {
                    "stop": ["x", "y"],
                    "stop_token_ids": [3],
                    "logit_bias": {5: -1.5},
                    "logprobs": 2,
                    "seed": 2**62,
                }
            },
            {"score_labels": {"labels": ["a", "b"], "normalize": "mean"}},
        ],
    ),
    spec(input=["a", "b"], prompt=None, prompt_column="t", tasks=["classify", "embed"]),
]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_survives_its_file(tmp_path: Path, job: JobSpec) -> None:
    store = LocalStore(str(tmp_path))
    save_job(store, job)
    save_job(store, spec(model="another"))  # who comes second changes nothing
    assert load_job(store) == job


@pytest.mark.parametrize("contents", [None, b"", b"\xff", b"[]", b"{}", b'{"tasks": 3}'])
def test_a_job_that_is_not_there_or_damaged_is_an_error(
    tmp_path: Path, contents: bytes | None
) -> None:
    store = LocalStore(str(tmp_path))
    if contents is not None:
        store.put_if_absent(JOB_NAME, contents)
    with pytest.raises(JobError, match=r"job\.json"):
        load_job(store)


def test_an_output_is_its_plan_and_one_listing(s3: Bucket, tmp_path: Path) -> None:
    local = make_output(tmp_path, parts=3)
    remote = make_output(tmp_path / "s3", url=s3.url("out"), parts=3)
    Path(local.url, "part-x.parquet").touch()
    Path(local.url, "notes.txt").touch()
    Path(local.url, "_part.parquet").touch()
    for made in (local, remote):
        output = open_output(made.url)
        assert output.units == tuple(made.units[:3])
        assert not output.is_complete
        assert all(output.changed_at(unit) > 1.7e9 for unit in output.units)
    assert open_output(local.url).strays == ("part-x.parquet",)
    assert open_output(remote.url).strays == ()


def test_a_damaged_part_is_told_from_one_that_cannot_be_reached(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    output = open_output(made.url)
    made.path(made.units[0]).write_bytes(b"PAR1")
    with pytest.raises(DamagedPartError), output.part(made.units[0]):
        pass
    made.path(made.units[1]).unlink()
    with pytest.raises(StorageError), output.part(made.units[1]):
        pass


def test_a_bucket_that_is_not_there_is_an_error(s3: Bucket) -> None:
    with pytest.raises(JobError):
        open_output("s3://no-such-bucket-at-all/out")
    with pytest.raises(JobError, match="holds no job"):
        open_output(s3.url("nothing"))


def test_a_store_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        open_output(str(tmp_path / "file"))
    assert open_store(str(tmp_path)).names() == {"file"}
