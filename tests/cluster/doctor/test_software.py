"""Versions held against ranges, over environments that are not there."""

from collections.abc import Iterable

import pytest

from cluster.doctor import software
from cluster.doctor.software import check_names, check_python, check_versions
from cluster.environment import ForeignPackageError

NEEDS = {
    "gemmaray": ["numpy>=2.0", "ray[data,serve]>=2.60,<2.64", "flash-attn>=2.8; extra == 'flash'"],
    "ray": ["click", "pyarrow; extra == 'data'", "pandas; extra == 'data'", "x; extra == 'llm'"],
}


def needs(name: str) -> Iterable[str]:
    return NEEDS.get(name, [])


@pytest.mark.parametrize(
    ("running", "state"), [("3.11.7", "ok"), ("3.13.0rc1", "ok"), ("3.10.1", "problem")]
)
def test_python(running: str, state: str) -> None:
    assert check_python(running, ">=3.11,<3.14").state == state


def test_all_is_well() -> None:
    installed = {"numpy": "2.1", "ray": "2.60.0", "pyarrow": "19", "pandas": "2"}
    (found,) = check_versions(installed.get, needs)
    assert (found.state, found.text[:2]) == ("ok", "2 ")


@pytest.mark.parametrize(
    ("change", "text", "fix"),
    [
        ({"numpy": None}, "numpy is not installed", "install gemmaray again"),
        ({"numpy": "1.26.4"}, "numpy is 1.26.4, not >=2.0", 'pip install "numpy>=2.0"'),
        ({"pandas": None}, "pandas of ray[data] is not installed", 'pip install "ray[data]"'),
    ],
)
def test_what_is_missing_or_too_old_is_named(
    change: dict[str, str | None], text: str, fix: str
) -> None:
    here = {"numpy": "2.1", "ray": "2.60.0", "pyarrow": "19", "pandas": "2", **change}
    (found,) = check_versions(here.get, needs)
    assert (found.state, found.text, found.fix) == ("problem", text, fix)


def test_a_foreign_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ForeignPackageError("`import model` finds /x/model")

    monkeypatch.setattr(software, "check_packages", fail)
    assert (check_names().state, check_names().text) == ("problem", "`import model` finds /x/model")


def test_this_environment_is_as_it_should_be() -> None:
    assert [finding.state for finding in software.examine()] == ["ok", "ok", "ok"]
