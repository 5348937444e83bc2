import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from cluster import cli


class Finished(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture
def gemmaray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process: gemmaray("generate", "in", "out")."""

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["gemmaray", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        out, err = capsys.readouterr()
        status = exit_info.value.code or 0
        assert isinstance(status, int)
        return Finished(status, out, err)

    return run
