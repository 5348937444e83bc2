"""Two runs of one job at once, on S3, behind a proxy that loses, delays and repeats requests."""

import contextlib
import json
import os
import random
import tempfile
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .job import EXPECTED, SUCCESS, UNITS, Ours
from .processes import child_signals, end, fork, nap, outcome
from .proxy import REPORT
from .servers import client, fault_proxy, s3_environment, s3_server
from .tally import Tally, tally

RUNS = 2
PARALLEL = 6  # trials at once: they mostly wait
MULTIPART_BYTES = 4096  # an object of twice as much is uploaded in parts of so much
CLIENT_TIMEOUT_S = 2.0  # less than the proxy's delay
RATE = 0.15  # of all requests
TRIES = 10  # of a run that ends with an error, as its user would try
DEADLINE_S = 180.0


class Trial:
    """One job in a bucket of its own.

    Half of the runs upload their parts in one request, the others in several.
    """

    def __init__(self, bucket: str, rng: random.Random) -> None:
        self.bucket = bucket
        self.errors = 0
        self._rng = rng
        self._live: dict[int, tuple[int, int]] = {}
        self._limit = time.monotonic() + DEADLINE_S
        for number in range(RUNS):
            self._start(number, 0)

    def finished(self) -> bool:
        """Look after the runs. Raises RuntimeError if one can't get to its end."""
        for pid, (number, tries) in list(self._live.items()):
            what = outcome(pid)
            if what is None:
                continue
            del self._live[pid]
            if what != "done":
                self.errors += 1
                if tries + 1 == TRIES:
                    raise RuntimeError(f"{self.bucket}: a run failed {TRIES} times")
                self._start(number, tries + 1)
        if time.monotonic() > self._limit:
            raise RuntimeError(f"{self.bucket}: a trial takes more than {DEADLINE_S} s")
        return not self._live

    def stop(self) -> None:
        """End what still runs."""
        for pid in self._live:
            end(pid)

    def _start(self, number: int, tries: int) -> None:
        order = self._rng.sample(UNITS, len(UNITS))
        name = f"run {number} try {tries}"
        work = partial(whole_run, f"s3://{self.bucket}/out", name, order, multipart=number % 2 == 1)
        self._live[fork(work)] = (number, tries)


def whole_run(output: str, name: str, order: list[Any], *, multipart: bool) -> None:
    """Run the job from its beginning to its end, in this process."""
    configure_client(multipart=multipart)
    ours = Ours()
    ours.begin(output)
    for unit in order:
        ours.commit(output, unit, name)
    ours.end(output)


def configure_client(*, multipart: bool) -> None:
    """Make this process's S3 client impatient, and one that cuts small objects up."""
    import fsspec  # noqa: PLC0415 - only ever in a child
    import s3fs  # noqa: PLC0415

    patience = {"read_timeout": CLIENT_TIMEOUT_S, "connect_timeout": CLIENT_TIMEOUT_S}
    fsspec.config.conf.setdefault("s3", {})["config_kwargs"] = patience
    if multipart:
        put: Any = s3fs.S3FileSystem._pipe_file
        _, *others = put.__defaults__
        put.__defaults__ = (MULTIPART_BYTES, *others)


@contextlib.contextmanager
def clients_of(endpoint: str) -> Iterator[None]:
    """Lead all children's S3 clients to a server."""
    before = dict(os.environ)
    os.environ.update(s3_environment(endpoint))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def fetched(s3: Any, bucket: str, folder: Path) -> tuple[Tally, bool]:
    """Count the rows of a bucket's output, and tell whether its end is marked."""
    found = s3.list_objects_v2(Bucket=bucket, Prefix="out/").get("Contents", [])
    names = [item["Key"].removeprefix("out/") for item in found]
    for name in names:
        if "/" not in name:
            body = s3.get_object(Bucket=bucket, Key=f"out/{name}")["Body"].read()
            (folder / name).write_bytes(body)
    return tally(folder, EXPECTED), SUCCESS in names


def run(trials: int, seed: int, *, rate: float = RATE) -> dict[str, Any]:
    """Run trials, and give their figures; trial i's bucket meets the faults of (seed, i)."""
    started = time.monotonic()
    with (
        s3_server() as direct,
        fault_proxy(direct, seed=seed, rate=rate) as proxied,
        clients_of(proxied),
        child_signals(),
    ):
        s3 = client(direct)
        figures, uploads = _trials(s3, trials, seed)
        with urllib.request.urlopen(proxied + REPORT) as answer:
            report = json.load(answer)
    # An upload whose beginning the client never heard of is left to the bucket's lifecycle rule.
    dangling = max(0, uploads - report["unheard_uploads"])
    return {
        "row": 2,
        "test": "S3 faults",
        "seed": seed,
        "trials": trials,
        "faults": report["faults"],
        "requests": report["requests"],
        "lost": figures["lost"],
        "doubled": figures["doubled"],
        "bad_trials": figures["bad"],
        "runs_failed": figures["errors"],
        "uploads_left": uploads,
        "uploads_unheard": report["unheard_uploads"],
        "seconds": round(time.monotonic() - started, 1),
        "ok": not figures["bad"] and not dangling,
    }


def _trials(s3: Any, trials: int, seed: int) -> tuple[Counter[str], int]:
    figures: Counter[str] = Counter()
    waiting, uploads = deque(range(trials)), 0
    live: list[Trial] = []
    try:
        while waiting or live:
            while waiting and len(live) < PARALLEL:
                bucket = f"trial-{waiting[0]}"
                s3.create_bucket(Bucket=bucket)
                live.append(Trial(bucket, random.Random(f"{seed}/{waiting.popleft()}")))
            nap(0.1)
            for trial in [trial for trial in live if trial.finished()]:
                live.remove(trial)
                figures += _judged(s3, trial)
                left = s3.list_multipart_uploads(Bucket=trial.bucket)
                uploads += len(left.get("Uploads", []))
    finally:
        for trial in live:
            trial.stop()
    return figures, uploads


def _judged(s3: Any, trial: Trial) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        counted, ended = fetched(s3, trial.bucket, Path(folder))
    return Counter(
        lost=counted.lost,
        doubled=counted.doubled,
        bad=int(not counted.good or not ended),
        errors=trial.errors,
    )
