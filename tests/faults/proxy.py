"""A proxy in front of an S3 server that does what networks and servers do on a bad day.

    python -m tests.faults.proxy --upstream http://127.0.0.1:5000 --seed 1 --rate 0.15

It prints its address, and ends when its standard input does. GET /.faults gives what it did so far
as JSON. A bucket's n-th request always meets the same fate, for a given seed.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from typing import NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

FAULTS = ("lost reply", "409", "503", "reset", "delay", "duplicate")
REFUSALS = {"409": (409, "ConditionalRequestConflict"), "503": (503, "SlowDown")}
# After these the client never learns what an upload that it began is called.
UNHEARD = {"lost reply", "reset", "delay", "duplicate"}
REPORT = "/.faults"
DELAY_S = 2.5  # longer than the clients of these tests wait
PER_HOP = {"host", "connection", "content-length", "transfer-encoding", "expect", "keep-alive"}
ERROR = "<Error><Code>{}</Code><Message>made by the proxy</Message></Error>"


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


class FaultProxy:
    """Forwards requests, some of them badly.

    Conditional writes go through one at a time: moto looks whether a name is taken and writes to it
    in two steps, which a real store does in one.
    """

    def __init__(self, upstream: str, seed: int, rate: float, *, ignore_conditions: bool) -> None:
        self._upstream, self._seed, self._rate = upstream, seed, rate
        self._ignore_conditions = ignore_conditions
        self._fates: dict[str, random.Random] = {}
        self._writing = asyncio.Lock()
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            connector=aiohttp.TCPConnector(limit=0),
        )
        self._delivered: Counter[str] = Counter()
        self._requests = 0
        self._unheard_uploads = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request."""
        if request.path == REPORT:
            return web.json_response(self._report())
        self._requests += 1
        fault = self._fate(request)
        if fault:
            self._delivered[fault] += 1
        if fault in REFUSALS:
            return _refusal(*REFUSALS[fault])
        response = await self._served(request, fault)
        if request.method == "POST" and "uploads" in request.query:
            # Where the machine is busy, a client may have left for no fault of ours.
            left = request.transport is None or request.transport.is_closing()
            self._unheard_uploads += fault in UNHEARD or left
        return response

    async def close(self) -> None:
        """Let go of the server."""
        await self._session.close()

    async def _served(self, request: web.BaseRequest, fault: str | None) -> web.StreamResponse:
        _welcome(request)
        size = request.content_length or 0
        if fault == "reset" and size:
            await request.content.read(size // 2)
            return _cut_off(request)
        body = await request.content.read()
        if fault == "delay":
            await asyncio.sleep(DELAY_S)  # the client has tried again by then: this one comes late
        answer = await self._forward(request, body)
        if fault == "duplicate":
            answer = await self._forward(request, body)
        if fault == "lost reply":
            return _cut_off(request)
        if fault == "reset":
            return await _half(request, answer)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body or None)

    def _report(self) -> dict[str, object]:
        return {
            "requests": self._requests,
            "faults": {name: self._delivered[name] for name in FAULTS},
            "unheard_uploads": self._unheard_uploads,
        }

    def _fate(self, request: web.BaseRequest) -> str | None:
        bucket = request.path.split("/")[1]
        rng = self._fates.setdefault(bucket, random.Random(f"{self._seed}/{bucket}"))
        chance, fault = rng.random(), rng.choice(FAULTS)
        if chance >= self._rate or (fault == "409" and not _conditional(request)):
            return None
        return fault

    async def _forward(self, request: web.BaseRequest, body: bytes) -> Answer:
        headers = _without(request.headers, PER_HOP)
        if self._ignore_conditions:
            headers.popall("If-None-Match", None)
        if not _conditional(request):
            return await self._ask(request, headers, body)
        async with self._writing:
            return await self._ask(request, headers, body)

    async def _ask(
        self, request: web.BaseRequest, headers: CIMultiDict[str], body: bytes
    ) -> Answer:
        async with self._session.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers=headers,
            data=body if request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            # The length of a HEAD's answer is all that the client wants to know.
            hop = PER_HOP - {"content-length"} if request.method == "HEAD" else PER_HOP
            return Answer(answer.status, _without(answer.headers, hop), await answer.read())


def _conditional(request: web.BaseRequest) -> bool:
    return request.method in {"PUT", "POST"} and "If-None-Match" in request.headers


def _without(headers: CIMultiDictProxy[str], names: set[str]) -> CIMultiDict[str]:
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in names)


def _welcome(request: web.BaseRequest) -> None:
    """Tell a client to go on that waits to hear so before it sends its body."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _refusal(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=ERROR.format(code), content_type="application/xml")


def _cut_off(request: web.BaseRequest) -> web.Response:
    """End the connection; the response that is returned has nowhere to go."""
    if request.transport is not None:  # the client has not gone by itself
        request.transport.abort()
    return web.Response()


async def _half(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    if request.method == "HEAD" or not answer.body:
        return _cut_off(request)
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[: len(answer.body) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


async def serve(options: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    proxy = FaultProxy(
        options.upstream,
        options.seed,
        options.rate,
        ignore_conditions=options.ignore_conditions,
    )
    runner = web.ServerRunner(web.Server(proxy.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    try:
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await runner.cleanup()
        await proxy.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--ignore-conditions", action="store_true")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
