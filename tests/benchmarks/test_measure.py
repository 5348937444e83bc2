import subprocess
import sys
import time

from benchmarks.measure import Quiet, Timing, timed
from benchmarks.memory import MemoryWatch, Resident, resident, together

LOUD, SOFT = Timing(9.0, 4.0, 1.5), Timing(3.0, 2.9, 0.05)
HELD = 96 << 20


def test_one_quiet_run_is_enough() -> None:
    quiet = Quiet(max_other=0.1, max_tries=3)
    assert not quiet.enough([LOUD, LOUD])
    assert quiet.enough([LOUD, SOFT])
    assert quiet.enough([LOUD] * 3)


def test_a_run_is_timed() -> None:
    result, timing = timed(lambda: sum(range(3_000_000)))
    assert result == sum(range(3_000_000))
    assert timing.wall_s > 0.0
    assert timing.cpu_s > 0.0


def test_the_work_of_another_process_is_its_own() -> None:
    burn = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    process = subprocess.Popen([sys.executable, "-c", burn + "\ninput()"], stdin=subprocess.PIPE)
    try:
        _, timing = timed(lambda: time.sleep(0.4), process.pid)
    finally:
        process.communicate()
    assert 0.1 < timing.cpu_s < 0.6
    # Seen from here, the same work is someone else's.
    assert timed(lambda: None)[1].cpu_s < 0.1


def test_what_processes_may_share_is_counted_once() -> None:
    assert together([]) == 0
    assert together([Resident(5, 3, 1)]) == 9
    assert together([Resident(5, 3, 1), Resident(10, 2, 4)]) == 5 + 10 + 3 + 4
    assert resident(2**22 + 1) == (0, 0, 0)


def test_the_peak_is_that_of_all_descendants() -> None:
    held = f"b = b'x' * {HELD}; print(flush=True); input()"
    nested = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {held!r}])\n"
        "child.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    with MemoryWatch(process.pid) as watch:
        process.stdout.readline()
        end = time.monotonic() + 10
        while watch.peak < HELD and time.monotonic() < end:
            time.sleep(0.1)
        process.communicate()
    assert HELD < watch.peak < 3 * HELD
