import re
import shlex
from pathlib import Path

from benchmarks import bench, offline, profile_step, rank_faults, whole_job
from benchmarks.workloads import KINDS

README = Path(offline.__file__).with_name("README.md").read_text(encoding="utf-8")
SCRIPTS = {
    "bench.py": bench,
    "offline.py": offline,
    "profile_step.py": profile_step,
    "rank_faults.py": rank_faults,
    "whole_job.py": whole_job,
}


def commands() -> list[list[str]]:
    code = re.sub(r"\\\n +", "", README)
    return [shlex.split(line, comments=True) for line in re.findall(r"(?m)^    (python .*)", code)]


def test_every_command_of_the_readme_is_understood() -> None:
    assert len(commands()) >= 4
    for _, script, *argv in commands():
        name = Path(script).name
        assert Path(offline.__file__).with_name(name).is_file()
        if name in SCRIPTS:
            SCRIPTS[name].arguments(argv)


def test_the_readme_names_every_workload() -> None:
    table = README.partition("Workloads, as")[2].partition("##")[0]
    assert re.findall(r"(?m)^\| `([a-z-]+)`", table) == list(KINDS)


def test_the_readme_names_every_script() -> None:
    folder = Path(offline.__file__).parent
    scripts = {path.name for path in folder.glob("*.py") if "def main(" in path.read_text()}
    assert set(re.findall(r"(?m)^\| `([a-z_]+\.py)`", README)) == scripts - {"serve.py"}
