import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.table import Table

from cluster import demo
from cluster.demo import DemoError, accuracies, checkout, demo_job, sample_of
from pipelines import JobReport, JobSpec

from .conftest import Command
from .test_display import report

ROOT = Path(__file__).parents[2]
SECTIONS = pa.table(
    {
        "package": ["libfoo-dev", "foo-doc", "foo", "bar"],
        "synopsis": ["headers", "manual", "library", "game"],
        "section": ["libdevel", "doc", "libs", "libs"],
        "generated_text": ["libdevel", " doc", "libs", "libs"],
        "label": ["libdevel", "doc", "doc", "libs"],
        "label_score": [0.9, 0.8, 0.7, 0.6],
    }
)
CLASSIFIED = pa.table({"label": ["libs", "doc", "libs", "games"]})


def rendered(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_accuracies_stand_beside_the_simplest_guess() -> None:
    text = rendered(accuracies(SECTIONS, CLASSIFIED))
    rows = {"always libs": "50.0%", "generated text": "100.0%", "likeliest label": "75.0%"}
    for name, share in (rows | {"classification head": "50.0%"}).items():
        assert any(name in line and share in line for line in text.splitlines())


def test_the_sample_shows_text_answers_and_probabilities() -> None:
    line = next(
        line for line in rendered(sample_of(SECTIONS, CLASSIFIED)).splitlines() if "libfoo" in line
    )
    for cell in ("libfoo-dev", "libdevel", "90%", "libs"):
        assert cell in line


def test_its_jobs_are_those_of_examples_with_absolute_paths(tmp_path: Path) -> None:
    home = checkout()
    assert home == ROOT
    for name in demo.JOBS:
        job = demo_job(home, name, tmp_path)
        assert job.output == str(tmp_path)
        assert Path(job.model, "config.json").is_absolute()
        assert Path(job.model, "config.json").exists()
        assert [Path(path).exists() for path in job.input] == [True]


def test_elsewhere_it_says_what_it_needs(
    gemmaray: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "package_folder", lambda name: tmp_path / name)
    finished = gemmaray("demo")
    assert finished.status == 2
    assert "source checkout" in finished.err
    with pytest.raises(DemoError):
        checkout()


def test_it_runs_both_jobs_anew_and_shows_them(
    gemmaray: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def no_cluster() -> Iterator[None]:
        yield

    def watch(job: JobSpec, _: Console) -> JobReport:
        output = Path(job.output)
        assert not output.exists()
        output.mkdir(parents=True)
        table = SECTIONS if job.tasks.generate else CLASSIFIED
        pq.write_table(table, output / "part-0.parquet")
        return report()

    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr(demo, "package_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(demo, "connected", no_cluster)
    monkeypatch.setattr(demo, "watch", watch)
    for _ in range(2):
        finished = gemmaray("demo")
        assert finished.status == 0
        assert "libfoo-dev" in finished.out
        assert "classification head" in finished.out
        assert "tokens: 6,000 in, 3,000 out, 100 per second" in finished.out
