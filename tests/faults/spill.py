"""A job whose rows are many times as large as Ray's object store."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .driver_kills import job_fields
from .node_kills import prepare
from .servers import ROOT
from .tally import contents, tally

STORE_BYTES = 80 << 20
ROW_BYTES = 20_000
TIMEOUT_S = 560.0


def run(rows: int) -> dict[str, Any]:
    """Run it, and give the figures; kept columns have to be what they were."""
    started = time.monotonic()
    prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bodies = [os.urandom(ROW_BYTES // 2).hex() for _ in range(rows)]
        table = pa.table({"id": range(rows), "text": [f"row {i}" for i in range(rows)]})
        source = table.append_column("body", pa.array(bodies))
        pq.write_table(source, folder / "in.parquet", row_group_size=500)
        fields = job_fields(folder / "in.parquet", folder / "out", 64, keep=["id", "body"])
        (folder / "job.json").write_text(json.dumps(fields))
        command = [sys.executable, "-m", "tests.faults.driver", str(folder / "job.json")]
        finished = subprocess.run(
            [*command, f"--object-store={STORE_BYTES}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if finished.returncode:
            sys.exit(finished.stderr)
        counted = tally(folder / "out", {"in.parquet": rows})
        kept = contents(folder / "out").select(["id", "body"])
        same = kept.equals(source.select(["id", "body"]))
    return {
        "row": 7,
        "test": f"an object store of {STORE_BYTES >> 20} MiB",
        "seed": None,
        "trials": 1,
        "rows": rows,
        "faults": {"MiB of rows": rows * ROW_BYTES >> 20},
        "lost": counted.lost,
        "doubled": counted.doubled,
        "bad_trials": int(not counted.good or not same),
        "seconds": round(time.monotonic() - started, 1),
        "ok": counted.good and same,
    }
