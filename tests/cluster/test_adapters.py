"""What the README shows of LoRA adapters, and the options of the command line."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.options import JobOptions, Place, UsageError, job_values
from model.errors import ParameterError

from .readme_commands import run, shown

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo-model"


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path: Path) -> None:
    finished = run(shown("LoRA adapters"), tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[0] == '{"section": "libs"}'
    rows = pq.read_table(tmp_path / "out" / "adapters").to_pylist()
    answers = [(row["form"], row["generated_text"]) for row in rows]
    assert answers[:3] == [("json", '{"section": "libs"}'), ("upper", "LIBS"), (None, "libs")]
    assert all(row["error"] is None for row in rows)


def values(place: Place, **options: str) -> dict[str, object]:
    model = str(DEMO / "causal-lm")
    return job_values(place, JobOptions(model=model, **options), {"generate": {}})  # type: ignore[arg-type]


def test_options_amount_to_a_job() -> None:
    place = Place("in.parquet", "out")
    options = {"prompt_column": "text", "adapters": "a=x, b=y", "adapter_column": "form"}
    job = values(place, **options)
    assert (job["adapters"], job["adapter_column"]) == ({"a": "x", "b": "y"}, "form")
    assert values(place, prompt_column="text", adapter="x")["adapter"] == "x"
    with pytest.raises(
        ParameterError, match="NAME=FOLDER,NAME=FOLDER with distinct names, got 'a'"
    ):
        values(place, **{**options, "adapters": "a"})
    with pytest.raises(UsageError, match="--adapters is for Parquet"):
        values(Place("-", "-"), adapters="a=x", adapter_column="form")
