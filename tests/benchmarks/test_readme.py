import re
import shlex
from pathlib import Path

from benchmarks import offline, profile_step
from benchmarks.workloads import KINDS

README = Path(offline.__file__).with_name("README.md").read_text(encoding="utf-8")
SCRIPTS = {"offline.py": offline, "profile_step.py": profile_step}


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
