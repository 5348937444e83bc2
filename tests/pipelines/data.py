"""Small Parquet files and job specs for tests."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import JobSpec

ROOT = Path(__file__).resolve().parents[2]
CAUSAL_LM = ROOT / "examples" / "demo-model" / "causal-lm"
CLASSIFIER = ROOT / "examples" / "demo-model" / "classifier"


def write(path: Path, columns: Any, **options: Any) -> Path:
    """Write a table, or columns by name, and give the path."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def invalid_text(*values: bytes | None) -> pa.Array:
    """A string column of any bytes, as files in the wild have them."""
    data = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(data), data.buffers(), data.null_count)


def spec(**changes: Any) -> JobSpec:
    """A job; `changes` replace its fields."""
    fields: dict[str, Any] = {
        "input": "in.parquet",
        "output": "out",
        "model": str(CAUSAL_LM),
        "prompt": "{text}",
        "tasks": [{"generate": {"max_tokens": 4}}],
    }
    fields |= changes
    return JobSpec(**{name: value for name, value in fields.items() if value is not None})
