"""Every view for everybody: on a phone, in the dark, by screen readers; and the state of things."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from cluster.serve.backend import Backend
from tests.cluster.serve.conftest import Served, Serving, until

from .conftest import PATIENCE_MS, OpenTab, Scripted

pytestmark = pytest.mark.slow

expect.set_options(timeout=PATIENCE_MS)
PHONE = {"viewport": {"width": 360, "height": 740}}
LONG = "w" * 300
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}


def fill(page: Page, view: str) -> None:
    """Have something to look at in a view."""
    page.click(f"#tab-{view}")
    match view:
        case "chat":
            page.fill("#chat-text", f"Hello {LONG}")
            page.press("#chat-text", "Control+Enter")
            page.locator("#chat .answer[aria-busy=false]").wait_for()
        case "completion":
            page.fill("#completion-text", LONG)
            page.press("#completion-text", "Control+Enter")
            page.locator("#completion .answer[aria-busy=false]").wait_for()
        case "labels":
            page.fill("#labels-text", LONG)
            if page.locator("#labels-list").is_visible():
                page.fill("#labels-list", f"one\n{LONG}")
            page.click("#labels-form [type=submit]")
            page.locator("#scores .bars").first.wait_for()
        case "tags":
            page.fill("#tags-text", f"python3-numpy - {LONG}")
            page.click("#tags-form [type=submit]")
            page.locator("#entities .marked").wait_for()
        case "state":
            page.locator("#state-models article").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_fit_a_phone_and_have_no_fault_that_axe_finds(
    served: Served, open_tab: OpenTab, scheme: str
) -> None:
    # axe itself does what the page's policy forbids.
    page = open_tab(
        served.url,
        refusals={404},
        color_scheme=scheme,
        reduced_motion="reduce",
        bypass_csp=True,
        **PHONE,
    ).page
    for model, views in {
        "demo": ["chat", "completion", "labels", "state"],
        "classifier": ["labels"],
        "tagger": ["tags"],
    }.items():
        page.select_option("#model", model)
        for view in views:
            fill(page, view)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, (model, view)
            if page.locator("#settings").is_visible():
                page.click("#settings summary")
            found = Axe().run(page, options=RULES)
            assert not found.response["violations"], found.generate_report()
            if page.locator("#settings").is_visible():
                page.click("#settings summary")


def batch(number: int, status: str, **counts: int) -> dict[str, Any]:
    return {
        "id": f"batch_{number}",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "status": status,
        "created_at": 1_700_000_000,
        "request_counts": counts,
    }


def test_the_state_is_renewed_while_it_is_looked_at(serving: Serving, open_tab: OpenTab) -> None:
    model = Scripted([])
    backends: dict[str, Backend] = {"m": model}
    tab = open_tab(serving(backends).url)
    page = tab.page
    batches = [
        batch(1, "in_progress", total=8, completed=3, failed=1),
        batch(2, "completed", total=5, completed=5, failed=0),
    ]
    page.route(
        "**/v1/batches*", lambda route: route.fulfill(json={"object": "list", "data": batches})
    )
    page.click("#tab-state")
    card = page.locator("#state-models article")
    expect(card.locator(".badge")).to_have_text(["2 running", "1 starting"])
    expect(card.locator("tbody tr")).to_have_text(["r13425 %50 %"])
    expect(page.locator(".batch .badge")).to_have_text(["in progress", "completed"])
    expect(page.locator(".batch p").first).to_contain_text("4 of 8, 1 failed")
    assert page.locator(".batch progress").first.evaluate("bar => bar.position") == 0.5
    # Tokens per second come from the counters' growth.
    model.counters["output_tokens"] = 1_000_000
    page.wait_for_selector("#state-models dd:has-text('K')")
    page.click("#tab-chat")
    page.wait_for_timeout(2500)  # one more may have been on its way
    asked = len(tab.requests)
    page.wait_for_timeout(4500)
    assert len(tab.requests) == asked


def test_a_server_without_batches_says_so_once(serving: Serving, open_tab: OpenTab) -> None:
    tab = open_tab(serving({"m": Scripted([])}).url, "/#state", refusals={404})
    expect(tab.page.locator("#state-batches")).to_have_text("Batches are off on this server.")
    until(lambda: sum("/status" in url for url in _seen(tab)) >= 3)
    assert sum("/v1/batches" in url for url in tab.requests) <= 1


def _seen(tab: Any) -> list[str]:
    tab.page.wait_for_timeout(200)  # lets events in
    return list(tab.requests)
