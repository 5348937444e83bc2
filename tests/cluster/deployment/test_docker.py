"""The Dockerfile against the repository: what it copies is there, and versions agree."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "cluster" / "docker" / "Dockerfile"


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The instructions, each on one line."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def copied(lines: list[str]) -> list[str]:
    """What comes from the repository."""
    plain = [
        line.split()[1:] for line in lines if line.startswith("COPY ") and "--from" not in line
    ]
    return [source for words in plain for source in words[:-1]]


def ignored() -> list[str]:
    """The patterns of .dockerignore that take back its first, which leaves everything out."""
    text = Path(f"{DOCKERFILE}.dockerignore").read_text(encoding="utf-8")
    first, *rest = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert first == "*"
    return [line.removeprefix("!") for line in rest if line.startswith("!")]


def test_what_is_copied_is_there_and_nothing_else_is_sent(lines: list[str]) -> None:
    sources = copied(lines)
    assert all((ROOT / source).exists() for source in sources)
    assert sorted(sources) == sorted(ignored())


def test_the_wheel_can_be_built_from_what_is_copied(lines: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    target = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*target["packages"], project["project"]["readme"], "hatch_build.py"]
    needed += project["project"]["license-files"]
    assert set(needed) <= set(copied(lines))


def test_versions_agree(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert f'image.version="{version("gemmaray")}"' in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = set(re.findall(r"python(3\.\d+)", text))
    assert len(pythons) == 1
    assert SpecifierSet(project["requires-python"]).contains(pythons.pop())
    (flash,) = re.findall(r"^ARG FLASH_ATTN=(\S+)$", text, re.MULTILINE)
    (wanted,) = project["optional-dependencies"]["flash"]
    assert SpecifierSet(wanted.removeprefix("flash-attn")).contains(flash)
    # The comment on CUDA speaks of one release of torch.
    comment = re.search(r"for torch (\d+\.\d+) is (\d+\.\d+)", DOCKERFILE.read_text())
    assert comment is not None
    assert f"torch=={comment[1]}." in (ROOT / "constraints.txt").read_text()
    assert f"ARG CUDA={comment[2]}." in text


def test_every_package_is_installed_as_it_is_pinned(lines: list[str]) -> None:
    for line in lines:
        for command in re.findall(r"pip install ([^&;]*)", line):
            assert "--constraint /src/constraints.txt" in command


def test_it_runs_as_nobody_in_particular_and_as_kuberay_wants_it(lines: list[str]) -> None:
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["1000:1000"], "by number, so that Kubernetes sees that it is not root"
    final = "\n".join(lines[[n for n, line in enumerate(lines) if line.startswith("FROM ")][-1] :])
    assert "useradd --uid 1000" in final
    for program in ("wget", "gcc", "python3.12"):
        assert re.search(rf"install[^&]*\b{program}\b", final)
    assert "PATH=/opt/gemmaray/bin:$PATH" in final, "ray and gemmaray are found"
    assert 'ENTRYPOINT ["gemmaray"]' in final
    assert "RAY_AUTH_MODE=token" in final


@pytest.mark.parametrize(
    ("command", "asks"),
    [
        (["gemmaray", "serve", "--model", "m"], True),
        (["tini", "--", "gemmaray", "serve"], True),
        (["gemmaray", "run", "serve.yaml"], False),
    ],
)
def test_only_a_server_is_asked_for_its_health(
    lines: list[str], tmp_path: Path, command: list[str], asks: bool
) -> None:
    (check,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    match = re.search(r'CMD \["sh", "-c", "(.*)"\]', check)
    assert match is not None
    cmdline = tmp_path / "cmdline"
    cmdline.write_bytes(b"".join(word.encode() + b"\0" for word in command))
    script = match[1].replace("/proc/1/cmdline", str(cmdline)).replace("wget", "false ||")
    script = script[: script.index("false ||") + len("false")]
    finished = subprocess.run(["sh", "-c", script], check=False)
    assert (finished.returncode != 0) == asks
