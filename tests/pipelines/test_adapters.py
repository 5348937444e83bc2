"""Jobs with LoRA adapters: merged, or one for each row; and what a resume may not change."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.replica import Request
from model import Engine, EngineConfig, SamplingParams
from model.errors import CheckpointError, ParameterError
from pipelines import PlanMismatch, run_job
from pipelines.checkpoint_info import inspect_checkpoint
from pipelines.fingerprint import fingerprint
from pipelines.footprint import weigh
from pipelines.job import JobSpec
from pipelines.jobfile import load_job, save_job
from pipelines.local_store import LocalStore
from pipelines.packet import PROMPTS, unpacked
from pipelines.plan import Unit
from pipelines.prepare import Preparer
from pipelines.reader import UnitRows
from pipelines.setup import set_up
from pipelines.tasks import tasks_of
from pipelines.work import JobWork

from .data import CAUSAL_LM, CLASSIFIER, spec, write

ADAPTERS = {name: str(CAUSAL_LM.parent / "adapters" / name) for name in ("json", "upper")}
TEXT = "Name the section of this Debian package.\nlibfoo-dev: headers of foo"
NODES = [{"CPU": 2.0, "memory": float(8 << 30)}]


def job(**changes: Any) -> JobSpec:
    return spec(**{"adapters": ADAPTERS, "adapter_column": "a", **changes})


def packet(made: JobSpec, names: pa.Array) -> pa.Table:
    table = pa.table({"text": [TEXT] * len(names), "a": names})
    info = inspect_checkpoint(made)
    maker = Preparer.of(made, info, tasks_of(made, info), pa.schema([]))
    return maker.packet(UnitRows(Unit(0, 0, len(names)), table, {}), "f")


def test_rows_choose_their_adapter() -> None:
    made = job()
    packed = packet(made, pa.array(["json", None, "upper", "", "lower", "json"]))
    requests = JobWork(tasks_of(made, inspect_checkpoint(made)), 7).requests(packed)
    chosen = [request.adapter if isinstance(request, Request) else "-" for request in requests]
    assert chosen == ["json", None, "upper", None, "-", "json"]
    row = unpacked(packed, PROMPTS).to_pylist()[4]
    assert (row["error_class"], row["error"]) == (
        "PromptError",
        "column 'a': there is no adapter 'lower'; the job has json, upper",
    )


def test_adapters_are_part_of_what_a_job_is(tmp_path: Path) -> None:
    other = shutil.copytree(ADAPTERS["json"], tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 3}))
    jobs = [
        spec(),
        spec(adapter=ADAPTERS["json"]),
        spec(adapter=str(other)),
        job(),
        job(adapter_column="b"),
        job(adapters={**ADAPTERS, "json": str(other)}),
        job(adapters={"json": ADAPTERS["json"]}),
    ]
    prints = [fingerprint(one, inspect_checkpoint(one), pa.schema([])) for one in jobs]
    for number, one in enumerate(prints):
        assert prints.index(one) == number
    assert "adapter" not in prints[0]  # jobs from before there were any go on
    # It is what they hold that counts, not where they lie.
    moved = shutil.copytree(ADAPTERS["json"], tmp_path / "moved")
    same = spec(adapter=str(moved))
    assert fingerprint(same, inspect_checkpoint(same), pa.schema([])) == prints[1]


def test_a_job_is_kept_with_its_adapters(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    save_job(store, job())
    assert load_job(store) == job()


def test_the_column_is_kept() -> None:
    assert job().kept_columns == "*"
    assert job(keep=["id"]).kept_columns == ("id", "a")
    assert job(keep=["a", "id"]).kept_columns == ("a", "id")
    assert spec(keep=["id"]).kept_columns == ("id",)


def test_their_memory_is_planned_for() -> None:
    checkpoint = inspect_checkpoint(job())
    numbers = sum(adapter.numbers for adapter in checkpoint.adapters.values())
    # Rank 4 on seven projections of four layers, twice.
    hidden, queries, keys, inner = 192, 256, 128, 512
    sides = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)
    assert numbers == 2 * 4 * 4 * sides
    plain = weigh(checkpoint.config, "bfloat16", "none", 1).rank_bytes
    assert (
        weigh(checkpoint.config, "bfloat16", "none", 1, numbers).rank_bytes - plain == 2 * numbers
    )


def test_jobs_that_cannot_run_say_why(tmp_path: Path) -> None:
    for changes in ({"adapters": ADAPTERS}, {"adapter_column": "a"}):
        with pytest.raises(ParameterError, match="adapters and adapter_column go together"):
            spec(**changes)
    with pytest.raises(CheckpointError, match="is for a causal_lm model"):
        inspect_checkpoint(
            job(model=str(CLASSIFIER), tasks=["classify"])  # which it was not trained for
        )
    source = write(tmp_path / "in.parquet", {"text": [TEXT], "a": [1]})
    with pytest.raises(Exception, match="column 'a' is int64; names are text"):
        set_up(job(input=str(source), output=str(tmp_path / "out")), NODES)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_with_the_column(tmp_path: Path) -> None:
    names = ["json", None, "upper", "lower", "", "upper"] * 3
    texts = [f"Name the section of this Debian package.\nlib{n}: library" for n in range(18)]
    source = write(tmp_path / "in.parquet", {"text": texts, "a": names})
    made = job(
        input=str(source),
        output=str(tmp_path / "out"),
        keep=["text"],
        tasks=[{"generate": {"max_tokens": 16}}],
        resources={"threads": 1},
        unit_rows=4,
    )
    report = run_job(made)
    assert (report.rows_done, report.rows_failed) == (18, 3)
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert [(row["text"], row["a"]) for row in found] == list(zip(texts, names, strict=True))
    with Engine(EngineConfig(checkpoint=str(CAUSAL_LM), adapters=ADAPTERS, threads=1)) as engine:
        chats = [[{"role": "user", "content": text}] for text in texts]
        chosen = [name if name in ADAPTERS else None for name in names]
        outputs = engine.generate(chats, SamplingParams(max_tokens=16), adapter=chosen)
    for row, output in zip(found, outputs, strict=True):
        assert row["generated_text"] == (None if row["a"] == "lower" else output.text)
    assert found[0]["generated_text"].startswith('{"section": "')
    assert found[2]["generated_text"].isupper()
    with pytest.raises(PlanMismatch, match=r"adapters\.upper"):
        run_job(made.model_copy(update={"adapters": {"json": ADAPTERS["json"]}}))
    with pytest.raises(PlanMismatch, match="adapter"):
        run_job(made.model_copy(update={"adapter": ADAPTERS["upper"]}))
