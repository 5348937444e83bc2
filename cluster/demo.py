"""`gemmaray demo`: the demo model's jobs on real rows, and how good the answers are."""

import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from model.errors import GemmarayError
from pipelines import JobReport, JobSpec

from .connect import connected
from .environment import package_folder
from .launch import watch
from .summary import tokens
from .wording import counted, duration

JOBS = {
    "sections": "write the section of each package, and give every section a probability",
    "classify": "ask a checkpoint with a classification head for the same",
}
SHOWN_ROWS = 8


class DemoError(GemmarayError):
    """The demo's files are not here."""


def run_demo() -> None:
    """Run the jobs of examples/ that ask for a package's section, and show what comes out.

    Results go to out/demo in the checkout, in place of those of the demo before.

    Raises:
        DemoError: this is no source checkout.
    """
    home = checkout()
    output = home / "out" / "demo"
    shutil.rmtree(output, ignore_errors=True)
    notes, screen = Console(stderr=True), Console(highlight=False, soft_wrap=True)
    notes.print("starting Ray on this machine")
    reports = {}
    with connected():
        for name, purpose in JOBS.items():
            notes.print(f"{name}: {purpose}", soft_wrap=True)
            reports[name] = watch(demo_job(home, name, output / name), notes)
    # Parts are in the order of their rows, and both jobs read the same file.
    sections, classified = (pq.read_table(output / name) for name in JOBS)
    screen.print(sample_of(sections, classified), accuracies(sections, classified))
    for name, report in reports.items():
        screen.print(f"{name}: {speed(report)}")
    screen.print(f"results: {output}/*/*.parquet")


def checkout() -> Path:
    """Find the source checkout that this package is part of."""
    home = package_folder("cluster").parent
    for needed in ("examples/packages.parquet", "examples/demo-model/causal-lm/config.json"):
        if not (home / needed).exists():
            raise DemoError(
                f"the demo needs {needed} of a source checkout, and {home} has none: clone the "
                "repository and run `make demo` in it"
            )
    return home


def demo_job(home: Path, name: str, output: Path) -> JobSpec:
    """Read a job of examples/, whose paths are meant from the checkout's root."""
    job = JobSpec.from_yaml(home / "examples" / f"{name}.yaml")
    places = {
        "input": tuple(str(home / path) for path in job.input),
        "model": str(home / job.model),
        "output": str(output),
    }
    return job.model_copy(update=places)


def sample_of(sections: pa.Table, classified: pa.Table) -> Table:
    """Show the first rows."""
    shown = Table("package", "section", "generated text", "likeliest label", "head", box=SIMPLE)
    head_labels = classified.slice(0, SHOWN_ROWS)["label"].to_pylist()
    for row, head in zip(sections.slice(0, SHOWN_ROWS).to_pylist(), head_labels, strict=True):
        label = f"{row['label']} {row['label_score']:.0%}"
        shown.add_row(row["package"], row["section"], row["generated_text"], label, head)
    return shown


def accuracies(sections: pa.Table, classified: pa.Table) -> Table:
    """Compare the three ways to tell a section with the truth, and with the simplest guess."""
    truth = sections["section"].to_pylist()
    common, _ = Counter(truth).most_common(1)[0]
    answers = {
        f"always {common}": [common] * len(truth),
        "generated text": [text.strip() for text in sections["generated_text"].to_pylist()],
        "likeliest label": sections["label"].to_pylist(),
        "classification head": classified["label"].to_pylist(),
    }
    shown = Table("section of an unseen package", "right", box=SIMPLE)
    for name, given in answers.items():
        right = sum(answer == true for answer, true in zip(given, truth, strict=True))
        shown.add_row(name, f"{right / len(truth):.1%}")
    return shown


def speed(report: JobReport) -> str:
    """Say how much was done in what time."""
    done = tokens(report.prompt_tokens, report.completion_tokens, report.elapsed_s)
    rows = f"{counted(report.rows_done, 'row')}, {counted(report.rows_failed, 'error')}"
    return f"{rows} in {duration(report.elapsed_s)}; tokens: {done}"
