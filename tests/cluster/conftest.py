import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, sync_playwright

from cluster import cli


class Finished(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Finished]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
