"""`gemmaray attention-mask`: what it prints, its page, and both against the masks themselves."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser
from rich.cells import cell_len

from cluster.attention_mask.page import write_page
from cluster.attention_mask.picture import Picture, picture_of, shortened
from cluster.attention_mask.text import BETWEEN, SEEN, UNSEEN, lines

from .conftest import Command
from .readme_commands import REPOSITORY, run, shown
from .test_report_page import Page

MODEL = str(REPOSITORY / "examples" / "demo-model" / "causal-lm")
TEXT = "You are an assistant. Make sure you print me"
EVIL = "</text><script>alert(1)</script>\x1b[31m\u202e <img src=x onerror=alert(1)> {{ 7 * 7 }}"


def picture(text: str = TEXT, *, chat: bool = False, window: int | None = 4) -> Picture:
    return picture_of(text, MODEL, None, chat=chat, window=window)


def plain(shown: Picture, width: int | None = None) -> list[str]:
    return "\n".join(line.plain for line in lines(shown, width)).split("\n")


def drawn(printed: list[str]) -> list[list[str]]:
    """Take the signs of all rows out of what was printed, one string for each mask."""
    rows = [line for line in printed if SEEN in line and ":" not in line and "sees" not in line]
    signs = [re.sub(f"[^{SEEN}{UNSEEN}│]", "", line).split("│") for line in rows]
    return [list(mask) for mask in zip(*signs, strict=True)]


def test_the_readme_s_command_prints_both_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = run(shown("Attention mask visualizer"), tmp_path)
    assert finished.returncode == 0, finished.stderr
    monkeypatch.chdir(REPOSITORY)
    named = picture_of(TEXT, "examples/demo-model/causal-lm", None, chat=False, window=4)
    assert finished.stdout == "\n".join([*plain(named), ""])


def test_every_sign_is_that_of_the_mask() -> None:
    made = picture()
    assert all(not line.endswith(" ") for line in plain(made))
    for mask, rows in zip(made.masks, drawn(plain(made)), strict=True):
        sees = np.array([[sign == SEEN for sign in row] for row in rows])
        np.testing.assert_array_equal(sees, mask.sees)


def test_masks_are_called_what_they_are() -> None:
    printed = plain(picture())
    assert printed[0] == f"Attention of {MODEL}, 4 layers, over 19 tokens"
    headings = [
        re.split(r"\s+│\s+", line.strip(" ")) for line in printed if "attention" in line.lower()
    ]
    assert ["Full attention", "Sliding attention"] in headings
    text = "\n".join(printed)
    assert re.search(r"a token sees all up to itself +│ +window of 4 tokens \(model: 32\)", text)
    assert re.search(r"layers 1, 3 \(2 of 4\) +│ +layers 0, 2 \(2 of 4\)", text)
    # The column of a number and that of its token are the same, on both sides.
    first_row = next(line for line in printed if line.startswith("<bos>"))
    numbers = next(line for line in printed if line.strip().startswith("0 1 2 3"))
    assert [m.start() for m in re.finditer("0", numbers)][:1] == [first_row.index(SEEN)]


def test_tokens_are_those_that_the_model_is_given() -> None:
    made = picture("a <bos>\n", chat=True)
    assert made.labels[:2] == ["<bos>", "<start_of_turn>"]
    assert made.labels[2:4] == ["'user'", r"'\n'"]
    assert "'<bos>'" not in made.labels  # text never is a control token
    assert made.labels.count("<bos>") == 1
    assert made.labels[-2:] == ["'model'", r"'\n'"]


def test_bytes_and_wide_characters_are_told_apart_and_take_their_room() -> None:
    made = picture("日本 é 🐍 e\u0301")
    assert any(re.fullmatch("<0x[0-9A-F]{2}>", label) for label in made.labels)
    printed = plain(made)
    rows = [line for line in printed if re.search(rf"\d  [{SEEN}]", line)]
    assert len(rows) == len(made.ids)
    assert len({cell_len(line.partition(BETWEEN)[0]) for line in rows}) == 1


@pytest.mark.parametrize(
    ("label", "cells", "short"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本", 4, "日本"), ("日本語", 4, "日…"), ("", 1, "")],
)
def test_labels_are_cut_by_columns(label: str, cells: int, short: str) -> None:
    assert shortened(label, cells) == short
    assert cell_len(short) <= cells


def test_a_text_that_fits_the_window_says_that_masks_are_the_same() -> None:
    assert "--window 2 shows a smaller one" in plain(picture("You are", window=None))[-1]
    assert "--window" not in plain(picture())[-1]


@pytest.mark.parametrize("width", [20, 60, 80, 120, 200])
@pytest.mark.parametrize("words", [1, 12, 150])
def test_what_is_printed_fits_the_terminal(width: int, words: int) -> None:
    made = picture(" ".join(["print"] * words))
    printed = list(lines(made, width))
    rows = [line for line in printed if SEEN in line.plain and "sees" not in line.plain]
    widest = max(cell_len(line.plain) for line in rows)
    assert widest <= max(width, 60)
    told = "\n".join(line.plain for line in printed)
    assert ("are left out here" in told) == ("…" in "".join(line.plain for line in rows))


def test_what_is_left_out_is_the_middle() -> None:
    made = picture(" ".join(["print"] * 150))
    tokens = len(made.ids)
    printed = plain(made, 80)
    numbers = [
        int(match[1]) for line in printed if (match := re.search(rf" (\d+)  [{SEEN}]", line))
    ]
    numbers = sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (0, tokens - 1)
    gap = next(n for n, number in enumerate(numbers) if n != number)
    assert f"Tokens {gap} to {numbers[gap] - 1} are left out" in "\n".join(printed)
    full, sliding = drawn(printed)
    corner = [(full[-1], SEEN), (sliding[-1], UNSEEN)]
    assert [row[0] for row, _ in corner] == [sign for _, sign in corner]


def test_colours_are_for_terminals(gemmaray: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("attention-mask", "You are", "--model", MODEL)
    assert "\x1b" not in gemmaray(*command).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32m" in gemmaray(*command).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in gemmaray(*command).out


def test_no_text_controls_the_terminal() -> None:
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", "".join(plain(picture(EVIL))[1:]))


def test_weights_are_not_read(gemmaray: Command, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(MODEL, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    finished = gemmaray("attention-mask", "You are", "--model", str(bare))
    assert (finished.status, finished.err) == (0, "")


def test_other_models_have_other_windows_and_layers(gemmaray: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(MODEL, other, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((other / "config.json").read_text())
    config |= {"sliding_window": 3, "num_hidden_layers": 26}
    (other / "config.json").write_text(json.dumps(config))
    told = gemmaray("attention-mask", TEXT, "--model", str(other)).out
    assert "layers 1, 3, …, 25 (13" in told
    assert "layers 0, 2, …, 24 (13" in told
    assert "window of 3 tokens" in told
    assert "(model" not in told


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((TEXT, "--model", "nowhere"), "nowhere"),
        ((TEXT, "--model", MODEL, "--window", "33"), "the model's window is 32 tokens"),
        ((TEXT, "--model", MODEL, "--window", "0"), "the model's window is 32 tokens"),
        (("print " * 1200, "--model", MODEL), "masks are shown of up to 1,024"),
        (("print " * 9000, "--model", MODEL), "the model reads 8,192 at most"),
        (("a\0b", "--model", MODEL), "NUL"),
        ((TEXT, "--model", MODEL, "--html", "no/such/folder.html"), "can't be written"),
        ((TEXT,), "--model"),
    ],
)
def test_a_user_error_is_one_line(gemmaray: Command, arguments: Any, part: str) -> None:
    finished = gemmaray("attention-mask", *arguments)
    assert (finished.status, finished.out, finished.err.count("\n")) == (2, "", 1)
    assert part in finished.err


def test_the_page_holds_what_the_masks_say(gemmaray: Command, tmp_path: Path) -> None:
    target = tmp_path / "mask.html"
    finished = gemmaray(
        "attention-mask", TEXT, "--model", MODEL, "--window", "4", "--html", str(target)
    )
    assert (finished.status, finished.out) == (0, f"{target}\n")
    made, page = picture(), Page(target.read_text(encoding="utf-8"))
    headings = [text for mask in made.masks for text in made.heading(mask)]
    assert all(heading in page.text for heading in headings)
    tokens = len(made.ids)
    rects = [a for tag, a in page.tags if tag == "rect" and a.get("class") == "seen"]
    cell = int(str(rects[0]["height"]))
    drawn = np.zeros((2, tokens, tokens), dtype=bool)
    for number, rect in enumerate(rects):
        x, y, width = (int(str(rect[name])) // cell for name in ("x", "y", "width"))
        drawn[number // tokens, y, x : x + width] = True
    for mask, rows in zip(made.masks, drawn, strict=True):
        np.testing.assert_array_equal(rows, mask.sees)
    assert f"{tokens - 1} {made.labels[-1]} sees {tokens - 4} to {tokens - 1}" in page.text


def test_no_text_is_markup_on_the_page(tmp_path: Path) -> None:
    text = write_page(picture(EVIL), tmp_path / "mask.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.count("script") == page.count("img") == page.count("link") == 0
    assert all(not {"src", "href"} & attributes.keys() for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "url(" not in text
    assert "{{ 7 * 7 }}" in page.text
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(chromium: Browser, tmp_path: Path, scheme: Any) -> None:
    path = write_page(picture(f"{EVIL} {'word ' * 60} 日本 🐍 שלום"), tmp_path / "mask.html")
    asked, complaints = list[str](), list[str]()
    view = {"width": 360, "height": 740}
    with chromium.new_context(color_scheme=scheme, bypass_csp=True, viewport=view) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.click("summary")
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
        found = Axe().run(page, options=rules | {"resultTypes": ["violations"]})
        assert not found.response["violations"], found.generate_report()
        # Labels end before their numbers, and numbers before the mask.
        for side in ("token", "unseen"):
            assert page.locator(f".{side}").first.bounding_box() is not None
        edges = page.evaluate(
            "() => [...document.querySelectorAll('svg')].map(svg => ["
            "Math.min(...[...svg.querySelectorAll('text')].map(t => t.getBBox().x)),"
            "Math.max(...[...svg.querySelectorAll('.token')].map(t => t.getBBox().x"
            " + t.getBBox().width)), svg.querySelector('g').transform.baseVal[0].matrix.e])"
        )
        assert all(left >= 0 and right < start for left, right, start in edges)
    assert asked == [path.as_uri()]
    assert not complaints
