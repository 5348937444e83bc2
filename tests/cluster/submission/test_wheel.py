"""The wheel that carries our code: pip installs it, and nothing else."""

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.submission import wheel as wheels
from cluster.submission.wheel import build_wheel, has_kernels


def test_equal_code_makes_an_equal_wheel(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = build_wheel(tmp_path), build_wheel(tmp_path / "again")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_other_code_makes_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_wheel(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "__init__.py").write_text("changed = True\n")
    monkeypatch.setattr(wheels, "PACKAGES", ("model",))
    monkeypatch.setattr(wheels, "package_folder", lambda _: folder)
    other = build_wheel(tmp_path)
    assert other.name != first.name
    assert not has_kernels(other)


def test_it_holds_all_packages_and_asks_for_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path)) as archive:
        names = archive.namelist()
        metadata = archive.read(f"gemmaray-{version('gemmaray')}.dist-info/METADATA").decode()
    assert {name.partition("/")[0] for name in names[:-3]} == {
        "cluster", "pipelines", "actors", "model",
    }  # fmt: skip
    assert "cluster/templates/report.html.j2" in names
    assert not [name for name in names if "__pycache__" in name]
    assert "Requires-Dist" not in metadata


@pytest.mark.slow
def test_pip_installs_it(tmp_path: Path) -> None:
    wheel, target = build_wheel(tmp_path), tmp_path / "there"
    pip = [sys.executable, "-m", "pip", "install", "--no-index", f"--target={target}", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    finished = subprocess.run(
        [sys.executable, "-m", "cluster", "--version"],
        cwd=target, env={"PYTHONPATH": str(target)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert finished.stdout == f"gemmaray {version('gemmaray')}\n"
