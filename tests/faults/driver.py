"""A job's driver as a process of its own, for others to kill.

    python -m tests.faults.driver JOB.json --address HOST:PORT --journal FILE --engine stub

JOB.json holds the fields of a JobSpec. Without an address it starts a Ray of its own.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from cluster.connect import ray_environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--engine", choices=["stub", "own"], default="stub")
    parser.add_argument("--object-store", type=int, metavar="BYTES")
    options = parser.parse_args()
    os.environ.update(ray_environment(local=False))
    _start_ray(options)
    _run(options)


def _start_ray(options: argparse.Namespace) -> None:
    import ray  # noqa: PLC0415 - it reads the environment

    own: dict[str, Any] = {"address": "local", "num_cpus": 4, "include_dashboard": False}
    if options.object_store:
        own["object_store_memory"] = options.object_store
    where = {"address": options.address} if options.address else own
    ray.init(log_to_driver=False, logging_level="error", **where)


def _run(options: argparse.Namespace) -> None:
    from model.errors import GemmarayError  # noqa: PLC0415 - after ray.init: ray.data may spoil it
    from pipelines import JobSpec, run_job  # noqa: PLC0415

    if options.engine == "stub":
        from . import stub  # noqa: PLC0415

        for module in stub.users():
            module.Replica = stub.shipped(options.journal)
    try:
        report = run_job(JobSpec(**json.loads(options.job.read_text())))
    except GemmarayError as error:
        sys.exit(f"driver: {error}")
    print(json.dumps({"rows": report.rows_done, "failed": report.rows_failed}))


if __name__ == "__main__":
    main()
