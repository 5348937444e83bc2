"""Row 8: Parquet files that are damaged in one place, read as a job reads them."""

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.pipelines.test_mutations import SEED, endings


def run(trials: int) -> dict[str, Any]:
    """Damage so many files, and give the figures: rows that are silently others count as lost."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = endings(Path(folder), 0, trials)
    ways = Counter("error rows" if end.faults else end.ended for end in found)
    bad = sum(end.ended not in {"refused", "rows"} or bool(end.wrong) for end in found)
    return {
        "row": 8,
        "test": "damaged Parquet files",
        "seed": SEED,
        "trials": len(found),
        "faults": {f"files: {way}": count for way, count in sorted(ways.items())},
        "lost": sum(end.wrong for end in found),
        "doubled": 0,
        "bad_trials": bad,
        "seconds": round(time.monotonic() - started, 1),
        "ok": not bad and len(found) == trials,
    }
