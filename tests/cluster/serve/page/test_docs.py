"""/docs in Chromium: the API's description, tried out, with nothing fetched from elsewhere."""

import pytest
from playwright.sync_api import expect

from tests.cluster.serve.conftest import Serving

from .conftest import PATIENCE_MS, OpenTab, Scripted

pytestmark = pytest.mark.slow

expect.set_options(timeout=PATIENCE_MS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_routes_are_described_and_can_be_tried(
    serving: Serving, open_tab: OpenTab, scheme: str
) -> None:
    served = serving({"m": Scripted([])})
    tab = open_tab(served.url, "/docs", color_scheme=scheme)
    page = tab.page
    documented = served.get("/openapi.json").json()["paths"]
    routes = sum(len(operations) for operations in documented.values())
    expect(page.locator(".opblock")).to_have_count(routes)
    page.locator(".opblock", has_text="/v1/models").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .microlight").first).to_contain_text('"id": "m"')
