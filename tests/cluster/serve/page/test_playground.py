"""The playground in Chromium, over the demo models and over what no model would say."""

import re
from collections.abc import Mapping
from typing import Any

import openai
import pytest
from playwright.sync_api import Page, expect

from actors.calls import Failure
from actors.endpoint import Endpoint
from cluster.serve.access import Keys, add_key
from cluster.serve.backend import LocalBackend
from tests.cluster.serve.conftest import Served, Serving, until

from .conftest import PATIENCE_MS, OpenTab, Scripted

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
ASKED = "Write a synopsis for this Debian package.\npython3-numpy"
expect.set_options(timeout=PATIENCE_MS)


def say(page: Page, text: str) -> None:
    page.fill("#chat-text", text)
    page.press("#chat-text", "Control+Enter")


def told(page: Page, place: int = 0) -> Any:
    """Wait for an answer to be complete."""
    answer = page.locator(".answer[aria-busy=false]").nth(place)
    answer.wait_for()
    return answer


def texts(answer: Any) -> str:
    return "".join(answer.locator(".token:not(.control)").all_text_contents())


def settle(page: Page, **settings: object) -> None:
    for name, value in settings.items():
        page.fill(f"#{name}", str(value))


def test_a_chat_shows_what_the_api_says(
    served: Served, client: openai.OpenAI, open_tab: OpenTab
) -> None:
    page = open_tab(served.url).page
    settle(page, temperature=0, max_tokens=12)
    say(page, ASKED)
    answer = told(page)
    body: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": 12}
    wanted = client.chat.completions.create(
        messages=[{"role": "user", "content": ASKED}], logprobs=True, top_logprobs=5, **body
    ).choices[0]
    assert wanted.logprobs is not None
    assert wanted.logprobs.content is not None
    assert texts(answer) == wanted.message.content
    assert answer.locator(".token").count() == len(wanted.logprobs.content)
    # By the mouse, and by the keyboard from there.
    first = answer.locator(".token").first
    first.hover()
    card = page.locator("#token")
    for place, token in enumerate(wanted.logprobs.content):
        expect(card.locator("p.soft")).to_have_text(
            re.compile(rf"^log-probability -?{abs(token.logprob):.4f}$")
        )
        names = [other.token.replace(" ", "␣").replace("\n", "⏎") for other in token.top_logprobs]
        assert card.locator(".bars .name").all_text_contents() == names
        if place == 0:
            first.focus()
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    # The next turn goes with the first.
    say(page, "And again?")
    assert told(page, 1).locator(".error").count() == 0


def test_stop_frees_the_place_within_a_second(
    endpoints: Mapping[str, Endpoint], serving: Serving, open_tab: OpenTab
) -> None:
    backend = LocalBackend(endpoints["demo"], 1)
    served = serving({"demo": backend})
    page = open_tab(served.url, "/#completion").page

    def endless(route: Any) -> None:
        route.continue_(post_data={**route.request.post_data_json, "ignore_eos": True})

    page.route("**/v1/completions", endless)
    settle(page, max_tokens=8000)
    page.fill("#completion-text", "lib")
    page.press("#completion-text", "Control+Enter")
    expect(page.locator("#completions .token").nth(5)).to_be_visible()  # as they come
    assert backend.ongoing == 1
    page.click("#completion-form [data-do=stop]")
    until(lambda: backend.ongoing == 0, 1.0)
    assert "stopped by you" in (told(page).locator(".figures").text_content() or "")
    assert served.post("/v1/completions", {"model": "demo", "prompt": "x"}).status_code == 200


def test_several_completions_and_the_prompt_itself(
    served: Served, client: openai.OpenAI, open_tab: OpenTab
) -> None:
    page = open_tab(served.url, "/#completion").page
    settle(page, n=3, seed=5, temperature=1, max_tokens=9)
    page.fill("#stop", "\\n")
    page.fill("#completion-text", "lib é - ")
    page.press("#completion-text", "Control+Enter")
    wanted = client.completions.create(
        model="demo", prompt="lib é - ", n=3, seed=5, max_tokens=9, stop=["\n"]
    )
    shown = [texts(told(page, place)) for place in range(3)]
    assert shown == [choice.text for choice in wanted.choices]
    page.click("[data-do=score]")
    scored = page.locator("article", has_text="The prompt itself").locator(
        ".answer[aria-busy=false]"
    )
    scored.wait_for()
    assert texts(scored) == "lib é - "
    page.locator("#completions .token").nth(0).hover()
    expect(page.locator("#token")).to_contain_text("the first token")


def test_labels_are_bars_the_likeliest_first(served: Served, open_tab: OpenTab) -> None:
    page = open_tab(served.url, "/#labels", refusals={400}).page
    text = "Name the section of this Debian package.\nlibssl-dev: toolkit"
    labels = ["games", "libdevel", "<b>perl</b>"]
    page.fill("#labels-text", text)
    page.fill("#labels-list", "\n".join(labels))
    page.press("#labels-list", "Control+Enter")
    body = {"model": "demo", "labels": labels, "messages": [{"role": "user", "content": text}]}
    scores = served.post("/v1/score_labels", body).json()["data"][0]["scores"]
    scores.sort(key=lambda score: -score["score"])
    expect(page.locator("#scores .name")).to_have_text([score["label"] for score in scores])
    wide = page.locator("#scores .fill").evaluate_all(
        "bars => bars.map(b => parseFloat(b.style.width))"
    )
    assert wide == pytest.approx([100 * score["score"] for score in scores], abs=0.01)
    # What the API refuses is told in its words.
    page.fill("#labels-list", "one")
    page.click("#labels-form [type=submit]")
    refused = served.post("/v1/score_labels", {**body, "labels": ["one"]}).json()["error"]
    expect(page.locator("#scores .error p").first).to_have_text(refused["message"])


def test_each_architecture_has_its_views(served: Served, open_tab: OpenTab) -> None:
    page = open_tab(served.url, refusals={404}).page
    tabs = page.locator("[role=tab]:visible")
    expect(tabs).to_have_text(["Chat", "Completion", "Labels", "State"])
    page.select_option("#model", "classifier")
    expect(tabs).to_have_text(["Labels", "State"])
    expect(page.locator("#labels-field")).to_be_hidden()
    page.fill("#labels-text", "libfoo1: shared library")
    page.click("#labels-form [type=submit]")
    body = {
        "model": "classifier",
        "messages": [{"role": "user", "content": "libfoo1: shared library"}],
    }
    best = served.post("/v1/classify", body).json()["data"][0]["label"]
    expect(page.locator("#scores .name").first).to_have_text(best)
    assert page.locator("#scores .name").count() == 58

    page.select_option("#model", "tagger")
    expect(tabs).to_have_text(["Tags", "State"])
    text = "\N{PILE OF POO} python3-numpy - fast <b>array</b> facility"
    page.fill("#tags-text", text)
    page.press("#tags-text", "Control+Enter")
    found = served.post("/v1/tag_tokens", {"model": "tagger", "input": text}).json()["data"][0]
    spans = [text[e["start"] : e["end"]] + e["label"] for e in found["entities"]]
    assert spans
    expect(page.locator("#entities mark")).to_have_text(spans)
    # From tab to tab by the keyboard.
    page.locator("#tab-tags").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#state")).to_be_visible()
    expect(page.locator("#tab-state")).to_be_focused()


def test_keys_are_asked_for_until_one_is_right(
    serving: Serving, open_tab: OpenTab, tmp_path: Any
) -> None:
    key = add_key(tmp_path / "keys", "alice")
    served = serving({"m": Scripted(["yes"])}, keys=Keys.read(str(tmp_path / "keys")))
    tab = open_tab(served.url, refusals={401})
    page = tab.page
    for wrong in (f"{key}x", "gr-nothing"):
        page.fill("dialog #key", wrong)
        page.click("dialog .primary")
        expect(page.locator("dialog .wrong")).to_have_text("The server does not know this key.")
    page.fill("dialog #key", f" {key} ")
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_have_count(0)
    say(page, "Hello")
    assert texts(told(page)) == "yes"
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [
        1,
        0,
        "",
    ]
    page.reload()
    expect(page.locator("#chat")).to_be_visible()  # it is still known
    page.goto(f"{served.url}/docs")
    expect(page.locator("#docs .opblock").first).to_be_visible()
    page.goto(served.url)
    page.click("#forget")
    expect(page.locator("dialog #key")).to_be_visible()
    page.click("dialog .quiet")
    expect(page.locator("#notice")).to_contain_text("this server needs an API key")
    assert not [url for url in tab.requests if key in url]


def test_what_is_said_stays_text(serving: Serving, open_tab: OpenTab) -> None:
    served = serving({EVIL: Scripted([EVIL, " and ", "<b>", "more"])})
    page = open_tab(served.url, refusals={400, 404}).page
    say(page, EVIL)
    answer = told(page)
    assert texts(answer) == f"{EVIL} and <b>more"
    answer.locator(".token").first.hover()
    expect(page.locator("#token code")).to_contain_text("<img")
    assert page.locator(".turn.user .text").text_content() == EVIL
    page.click("#tab-labels")
    page.fill("#labels-text", EVIL)
    page.fill("#labels-list", "a\nb")
    page.click("#labels-form [type=submit]")
    expect(page.locator("#scores .error p").first).to_have_text("<b>no</b> answer")
    page.click("#tab-state")
    expect(page.locator("#state-models h3")).to_have_text(EVIL)
    assert page.locator("main img, main script, main b").count() == 0
    assert page.title() == "gemmaray"


def test_an_error_within_a_stream_is_shown_beside_what_came(
    serving: Serving, open_tab: OpenTab
) -> None:
    served = serving({"m": Scripted(["some"], Failure("dead", "gone"))})
    page = open_tab(served.url).page
    say(page, "Hello")
    answer = told(page)
    expect(answer.locator(".error")).to_contain_text("the engine of this model has died")
    assert texts(answer) == "some"


def test_turns_are_changed_and_asked_again(serving: Serving, open_tab: OpenTab) -> None:
    model = Scripted(["yes"], system="fold")
    served = serving({"m": model})
    page = open_tab(served.url).page
    page.fill("#system", "Be brief.")
    say(page, "first")
    told(page)
    say(page, "second")
    told(page, 1)
    page.locator(".turn").nth(1).hover()
    page.locator(".turn.assistant button").first.click()
    until(lambda: len(model.calls) == 3)
    told(page)
    page.locator(".turn.user button").first.click()
    expect(page.locator("#chat-text")).to_have_value("first")
    expect(page.locator(".welcome")).to_be_visible()
    said = [[message["content"] for message in call.prompts[0].messages] for call in model.calls]
    assert said == [
        ["Be brief.", "first"],
        ["Be brief.", "first", "yes", "second"],
        ["Be brief.", "first"],
    ]


def test_fields_that_the_api_would_refuse_are_not_sent(served: Served, open_tab: OpenTab) -> None:
    page = open_tab(served.url).page
    settle(page, temperature=101)
    say(page, "Hello")
    assert page.locator(".turn").count() == 0
    expect(page.locator("#temperature:invalid")).to_have_count(1)
