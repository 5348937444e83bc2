"""The page's modules that compute, run by Chromium over more cases than a model would show them."""

import random
from typing import Any

import pytest

from tests.cluster.serve.conftest import Serving

from .conftest import OpenTab, Scripted

pytestmark = pytest.mark.slow

STREAM = (
    'data: {"a":"é😀"}\r\n\r\n: note\r\ndata: one\r\ndata: two\n\nevent: x\rdata:three\r\r'
    "data\n\nid: 1\n\ndata: never ended"
).encode()
DATA = ['{"a":"é😀"}', "one\ntwo", "three", ""]
CUT = """async (bytes) => {
  const { EventParser } = await import("/page/sse.js");
  const found = new Set();
  for (let i = 0; i <= bytes.length; i += 1)
    for (let j = i; j <= bytes.length; j += 1) {
      const parser = new EventParser();
      const parts = [bytes.slice(0, i), bytes.slice(i, j), bytes.slice(j)];
      const events = parts.flatMap((part) => [...parser.add(new Uint8Array(part))]);
      found.add(JSON.stringify(events));
    }
  return [...found].map((one) => JSON.parse(one));
}"""
LAY = """async (cases) => {
  const { Overlay } = await import("/page/tokens.js");
  return cases.map((chunks) => {
    const overlay = new Overlay();
    const pieces = chunks.flatMap(({ text, tokens }) => overlay.add(text, tokens));
    return [...pieces, ...overlay.end()];
  });
}"""


def test_events_may_be_cut_anywhere(serving: Serving, open_tab: OpenTab) -> None:
    page = open_tab(serving({"m": Scripted([])}).url).page
    assert page.evaluate(CUT, list(STREAM)) == [DATA]


def answer(draw: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """A text, and the chunks in which tokens of any bytes of it might come, text behind them."""
    text = "".join(draw.choices("ab é€😀\n<", k=draw.randint(0, 30)))
    data, chunks, sent, place = text.encode(), [], 0, 0
    number = 0
    while place < len(data):
        tokens = []
        for _ in range(draw.randint(1, 3)):
            size = draw.randint(1, 5)
            part, place = data[place : place + size], place + size
            if part:
                tokens.append({"number": number, "bytes": list(part)})
                number += 1
            if (
                draw.random() < 0.1
                and data[:place].decode(errors="ignore").encode() == data[:place]
            ):
                # A control token, which a model does not write within a character.
                tokens.append({"number": number, "bytes": list(b"<eos>")})
                number += 1
        known = data[:place].decode(errors="ignore")
        until = len(known) - draw.choice([0, 0, 0, 2, 5])  # held back for a stop string
        until = max(sent, until) if place < len(data) else len(known)
        chunks.append({"text": known[sent:until], "tokens": tokens})
        sent = until
    return text, chunks


def test_tokens_lie_over_the_text_that_they_make(serving: Serving, open_tab: OpenTab) -> None:
    page = open_tab(serving({"m": Scripted([])}).url).page
    draw = random.Random(1)
    cases = [answer(draw) for _ in range(400)]
    for (text, chunks), pieces in zip(
        cases, page.evaluate(LAY, [chunks for _, chunks in cases]), strict=True
    ):
        assert "".join(piece["text"] for piece in pieces) == text
        laid = [token["number"] for piece in pieces for token in piece["tokens"]]
        assert laid == list(range(sum(len(chunk["tokens"]) for chunk in chunks)))
        for piece in pieces:
            data = bytes(byte for token in piece["tokens"] for byte in token["bytes"])
            assert piece["text"] in {"", data.decode(errors="replace")}


def test_a_text_that_a_stop_string_cuts_off_keeps_its_token(
    serving: Serving, open_tab: OpenTab
) -> None:
    page = open_tab(serving({"m": Scripted([])}).url).page
    token = {"bytes": list(b"one.two")}
    (pieces,) = page.evaluate(
        LAY, [[{"text": "", "tokens": [token]}, {"text": "one", "tokens": []}]]
    )
    assert pieces == [{"text": "one", "tokens": [token]}]
