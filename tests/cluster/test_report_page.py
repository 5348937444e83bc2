"""The page is checked as a browser's parser sees it: what is a tag, and what is text."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.report_page import FOLDED, write_report
from pipelines.jobfile import save_job
from tests.pipelines.data import spec
from tests.pipelines.outputs import Made, make_output
from tests.pipelines.test_verify import cut_off

from .conftest import Command

EVIL = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"
VOID = {"meta", "line", "rect", "path", "img", "link", "br", "input"}


class Page(HTMLParser):
    """Collects a page's tags and text, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:  # a <rect> may hold a <title>
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, as it is read."""
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str) -> int:
        """Tell how often a tag occurs."""
        return sum(name == tag for name, _ in self.tags)


def report(made: Made, tmp_path: Path) -> Page:
    text = write_report(made.url, tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    page = Page(text)
    assert page.count("script") == page.count("img") == page.count("link") == 0
    assert all(not {"src", "href"} & attributes.keys() for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "url(" not in text
    assert "@import" not in text
    return page


def test_the_page_shows_the_figures(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    save_job(made.store, spec(output=made.url, limit=70))
    page = report(made, tmp_path)
    for title in (
        "Throughput", "Replicas at work", "Prompt lengths", "Answer lengths",
        "Time of a row in the engine", "Scores of the chosen label", "Why answers ended", "Labels",
        "PromptError", "row 4 is bad", "complete", "{text}", "max_tokens", "f0.parquet",
    ):  # fmt: skip
        assert title in page.text, title
    assert page.count("svg") == 6
    # What is drawn stands in a table too, and is named for those who can't see it.
    assert page.count("table") == 6 + 2 + 1
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    rows = sum(1 for text in page.texts if text.startswith("answer "))
    assert 0 < rows <= 12


def test_the_page_may_load_and_run_nothing(tmp_path: Path) -> None:
    page = report(make_output(tmp_path), tmp_path)
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_text_is_never_markup(tmp_path: Path) -> None:
    def source(rows: int) -> pa.Table:
        return pa.table({EVIL: [EVIL] * rows, "more": [f"{EVIL} {row}" for row in range(rows)]})

    made = make_output(tmp_path, rows=(20,), source=source)
    for unit in made.units:
        table = made.table(unit)
        for name in ("generated_text", "label", "finish_reason", "error", "error_class"):
            at = table.schema.get_field_index(name)
            values = [value and EVIL for value in table[name].to_pylist()]
            table = table.set_column(at, table.schema.field(at), pa.array(values, pa.string()))
        made.rewrite(unit, table)
    save_job(made.store, spec(prompt=f"{{more}} {EVIL}", output=made.url))
    page = report(made, tmp_path)
    for name in ("dt", "dd", "th", "li"):
        assert page.count(name) > 0
    # In a column's name, a cell, a label, an end's reason, an error's class and message, a setting.
    assert page.text.count(EVIL) >= 12 * 3 + 2 + 2 + 1


def test_long_text_is_folded_and_complete(tmp_path: Path) -> None:
    long = "word " * FOLDED
    made = make_output(tmp_path, rows=(4,), source=lambda rows: pa.table({"text": [long] * rows}))
    page = report(made, tmp_path)
    assert sum(text == long for text in page.texts) == 4
    assert page.count("details") == page.count("summary")


def test_values_of_every_kind_are_shown(tmp_path: Path) -> None:
    far = pa.array([2**62], pa.int64()).view(pa.timestamp("us"))
    values: dict[str, Any] = {
        "bytes": [b"\x00\xff"],
        "list": [[1.5, None]],
        "nothing": pa.nulls(1),
        "far": far,
        "control": ["a\0b"],
    }
    page = report(make_output(tmp_path, rows=(1,), source=lambda _: pa.table(values)), tmp_path)
    assert "[1.5, null]" in page.text


@pytest.mark.parametrize("parts", [0, 1])
def test_a_job_that_has_just_begun_has_a_page(tmp_path: Path, parts: int) -> None:
    page = report(make_output(tmp_path, parts=parts), tmp_path)
    assert f"not complete: {parts} of 7 parts" in page.text
    assert ("There are no rows yet." in page.text) == (parts == 0)


def test_parts_that_do_not_say_when_they_came_leave_the_times_out(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    for unit in made.units:
        made.rewrite(unit, made.table(unit), begun=0.0, finished=0.0, latencies=())
    page = report(made, tmp_path)
    assert "Throughput" not in page.text
    assert "Prompt lengths" in page.text


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    cut_off(made, made.units[2])
    Path(made.url, "stray.parquet").touch()
    page = report(made, tmp_path)
    assert made.plan.part_name(made.units[2]) in page.text
    assert "no part of this job: stray.parquet" in page.text


def test_the_page_is_named_after_the_output(
    gemmaray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_output(tmp_path)
    monkeypatch.chdir(tmp_path)
    finished = gemmaray("report", made.url)
    assert (finished.status, finished.out) == (0, "out-report.html\n")
    assert (tmp_path / "out-report.html").stat().st_size < 200_000
    nowhere = gemmaray("report", made.url, "--out", str(tmp_path / "no" / "where.html"))
    assert (nowhere.status, nowhere.err.count("\n")) == (2, 1)
