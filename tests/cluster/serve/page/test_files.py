"""The files behind the pages: what they are sent with, and what they may refer to."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cluster.serve.api import make_app
from cluster.serve.routes import page
from tests.cluster.serve.conftest import Served, Serving

FOLDER = page.FOLDER


class Elements(HTMLParser):
    """The elements of a page, each with its attributes."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_pages_and_their_parts_have_the_headers_of_pages(served: Served) -> None:
    for path in page.paths():
        reply = served.get(path)
        assert reply.status_code == 200, path
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        if reply.headers["content-type"].startswith("text/html"):
            assert reply.headers["cache-control"] == "no-store"
            continue
        assert reply.headers["cache-control"] == "no-cache"
        again = served.get(path, headers={"if-none-match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-security-policy"] == policy


def test_types_are_those_that_browsers_insist_on(served: Served) -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in page.paths():
        wanted = types.get(Path(path).suffix, "text/html")
        found = served.get(path).headers["content-type"].partition(";")[0]
        assert found.replace("application/javascript", "text/javascript") == wanted


@pytest.mark.parametrize("name", ["index.html", "docs.html"])
def test_a_page_has_no_script_or_style_of_its_own_and_its_parts_are_there(name: str) -> None:
    open_paths = page.paths()
    for tag, attributes in Elements(FOLDER / name).found:
        assert tag != "style"
        assert not [key for key in attributes if key.startswith("on") or key == "style"]
        for link in ("href", "src"):
            target = attributes.get(link)
            if tag in {"script", "link", "img"} and target:
                assert f"/{target}" in open_paths
    assert all(
        "src" in attributes for tag, attributes in Elements(FOLDER / name).found if tag == "script"
    )


def test_modules_import_what_is_there() -> None:
    for file in FOLDER.glob("*.js"):
        for name in re.findall(r'^(?:import|} from).*"(.+)";$', file.read_text(), re.MULTILINE):
            assert (FOLDER / name).is_file(), (file.name, name)


def test_nothing_refers_to_other_places() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$|\s// .*$", "", text, flags=re.MULTILINE), file.name


def test_fields_have_the_bounds_of_the_api() -> None:
    schemas = make_app({}, None).openapi()["components"]["schemas"]
    fields = {
        a["id"]: a for _, a in Elements(FOLDER / "index.html").found if a.get("type") == "number"
    }
    assert fields.keys() == {"temperature", "top_p", "max_tokens", "top_k", "seed", "n"}
    for name, attributes in fields.items():
        for request in ("ChatRequest", "CompletionRequest"):
            schema = schemas[request]["properties"][name]["anyOf"][0]
            least = schema.get("minimum", schema.get("exclusiveMinimum"))
            most = schema.get("maximum", schema.get("exclusiveMaximum"))
            if name == "seed":
                most = 2**53 - 1  # JavaScript counts no further
            if name == "max_tokens":
                least = 1  # a completion's 0 is what scores the prompt
            assert (float(attributes["min"] or 0), float(attributes["max"] or 0)) == (
                least,
                most,
            ), name


def test_what_is_no_part_of_a_page_is_not_there(serving: Serving) -> None:
    served = serving({})
    for path in ("/page/x.js", "/docs/favicon-32x32.png", "/docs/__init__.py"):
        reply = served.get(path)
        assert reply.status_code == 404, path
        assert reply.json()["error"]["type"] == "not_found_error"
