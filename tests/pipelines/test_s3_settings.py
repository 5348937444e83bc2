import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model.errors import ParameterError
from pipelines import InputError
from pipelines.checkpoint_info import inspect_checkpoint
from pipelines.fingerprint import fingerprint
from pipelines.inputs import read_footers
from pipelines.listing import find_files
from pipelines.locations import filesystem
from pipelines.plan import Unit
from pipelines.reader import ReadOptions, read_units
from pipelines.s3 import S3Settings
from pipelines.status import read_status
from pipelines.storage import open_store, probe
from pipelines.verify import verify
from tests.conftest import Bucket

from .data import spec, write
from .outputs import make_output

KEPT = pa.schema([("text", pa.string())])
FORGOTTEN = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@pytest.fixture
def settings(
    s3: Bucket, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> S3Settings:
    """What leads to the server where the environment does not."""
    for name in FORGOTTEN:
        monkeypatch.delenv(name)
    credentials = tmp_path / "credentials"
    credentials.write_text("[lab]\naws_access_key_id = tester\naws_secret_access_key = hush-hush\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    return S3Settings(endpoint=s3_endpoint, region="us-east-1", profile="lab")


def test_settings_lead_to_files_and_stores_without_the_environment(
    s3: Bucket, settings: S3Settings, tmp_path: Path
) -> None:
    s3.fs.put(str(write(tmp_path / "a.parquet", {"text": ["x", "y"]})), s3.url("in/a.parquet"))
    (footer,) = read_footers(find_files([s3.url("in")], settings), None, settings)
    (rows,) = read_units(footer.file, [Unit(0, 0, 2)], None, ReadOptions(s3=settings))
    assert rows.table["text"].to_pylist() == ["x", "y"]
    store = open_store(s3.url("out"), settings)
    probe(store)
    # As a worker gets it.
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.put_if_absent("a", b"1")
    assert store.read("a") == b"1"


def test_outputs_are_looked_at_where_the_settings_lead(
    s3: Bucket, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made = make_output(tmp_path, url=s3.url("out"))
    settings: S3Settings = request.getfixturevalue("settings")
    assert read_status(made.url, settings).state == "complete"
    assert verify(made.url, settings).proven


def test_no_secret_is_in_what_travels_and_is_written(settings: S3Settings, tmp_path: Path) -> None:
    job = spec(s3=settings.model_dump())
    written = json.dumps(job.model_dump(mode="json"))
    assert "lab" in written
    assert "hush-hush" not in written
    assert b"hush-hush" not in pickle.dumps((job, ReadOptions.of(job)))


def test_a_profile_that_is_not_there_is_one_line(s3: Bucket, s3_endpoint: str) -> None:
    settings = S3Settings(endpoint=s3_endpoint, profile="nobody")
    with pytest.raises(InputError, match="nobody") as error:
        find_files([s3.url("in")], settings)
    assert "\n" not in str(error.value)


def test_anonymous_requests_are_not_signed(s3_endpoint: str) -> None:
    fs = filesystem("s3", S3Settings(endpoint=s3_endpoint, anonymous=True))
    assert fs.anon
    assert fs.key is fs.secret is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": "localhost:9000"}, "must be a URL such as"),
        ({"endpoint": "ftp://host"}, "must be a URL such as"),
        ({"endpoint": "http://"}, "must be a URL such as"),
        ({"endpoint": "http://["}, "must be a URL such as"),
        ({"endpoint": "https://key:hush@host"}, "must hold no credentials"),
        ({"endpoint": "https://host?token=hush"}, "must hold no credentials"),
        ({"anonymous": True, "profile": "p"}, "contradict each other"),
        ({"key": "hush"}, "key"),
    ],
)
def test_other_settings_are_refused_and_secrets_not_repeated(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message) as error:
        spec(s3=values)
    if "key" not in values:
        assert "hush" not in str(error.value)


def test_they_do_not_decide_the_results() -> None:
    job = spec()
    checkpoint = inspect_checkpoint(job)
    other = spec(s3={"region": "eu-west-1"}, on_bad_file="quarantine")
    assert fingerprint(job, checkpoint, KEPT) == fingerprint(other, checkpoint, KEPT)
