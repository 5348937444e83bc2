"""The installed command as a process: how fast it answers, and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cluster
from cluster.commands import app
from cluster.help_panels import PANELS, name_of

COMMAND = Path(sys.executable).with_name("gemmaray")


def gemmaray(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_help_names_the_commands() -> None:
    finished = gemmaray("--help")
    assert finished.returncode == 0
    assert "score-labels" in finished.stdout


def test_every_command_stands_in_a_panel_once() -> None:
    named = [name for names in PANELS.values() for name in names]
    assert len(named) == len(set(named))
    commands = [name_of(command) for command in app.registered_commands]
    assert set(commands) <= set(named)
    assert commands == sorted(commands, key=named.index)


def test_nothing_heavy_is_imported_before_a_command_needs_it() -> None:
    code = "import cluster.commands, sys; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "ray", "pyarrow", "transformers", "s3fs"} & set(finished.stdout.split())


def test_version() -> None:
    assert gemmaray("--version").stdout.startswith("gemmaray 0.")


def test_a_mistyped_flag_is_one_line() -> None:
    finished = gemmaray("generate", "--modle", "m")
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1
    assert "--modle" in finished.stderr


def test_no_arguments_show_the_help() -> None:
    assert "score-labels" in gemmaray().stdout


@pytest.mark.parametrize("name", ["model", "pipelines"])
def test_a_foreign_package_of_our_name_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    finished = gemmaray("--help", PYTHONPATH=str(tmp_path))
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"gemmaray: error: `import {name}` finds {tmp_path}")
    assert "Traceback" not in finished.stderr


def test_the_packages_lie_side_by_side() -> None:
    assert Path(cluster.__file__).parents[1].joinpath("model", "__init__.py").exists()
