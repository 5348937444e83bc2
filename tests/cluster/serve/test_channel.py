"""The connection between replicas and a front door: what arrives, and who is let in."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from actors.calls import Added, Begun, Ended, Event, Failure, Piece
from cluster.serve.channel import frames
from cluster.serve.channel.frames import Message, ReturnAddress, pack, prove, read_frame
from cluster.serve.channel.receiver import Inbox, Receiver
from cluster.serve.channel.sender import Senders
from model.outputs import TokenDelta, TokenLogprob

from .channels import HOST, added, everything, receiving, run, until

# -- what arrives ----------------------------------------------------------------------------------

numbers = st.integers(0, 2**31)
logprobs = st.builds(
    TokenLogprob,
    numbers,
    st.floats(allow_nan=False),
    st.lists(st.tuples(numbers, st.floats(allow_nan=False))).map(tuple),
)
deltas = st.builds(
    TokenDelta,
    st.integers(0, 9),
    st.lists(numbers).map(tuple),
    st.text(),
    st.none() | st.lists(logprobs).map(tuple),
    st.sampled_from([None, "stop", "length"]),
)
pieces = st.dictionaries(numbers, st.builds(Piece, st.binary(), st.booleans()))
failures = st.builds(
    Failure, st.sampled_from(["request", "dead"]), st.text(), st.none() | st.text()
)


@given(
    begun=st.lists(st.builds(Begun, st.none() | st.lists(st.text()).map(tuple)), max_size=1),
    middle=st.lists(st.builds(Added, st.integers(0, 9), deltas, pieces)),
    ended=st.lists(st.builds(Ended, st.integers(0, 9), numbers)),
    failure=st.lists(failures, max_size=1),
    number=numbers,
)
def test_events_arrive_as_they_were(
    begun: list[Event], middle: list[Event], ended: list[Event], failure: list[Event], number: int
) -> None:
    events = [*begun, *middle, *ended, *failure]

    async def there_and_back() -> list[Message]:
        reader = asyncio.StreamReader()
        reader.feed_data(pack([Message.of(number, events)] * 2))
        return await read_frame(reader)

    first, second = asyncio.run(there_and_back())
    assert first == second
    assert (first.number, first.events()) == (number, events)


def test_each_call_gets_its_own_events_in_order() -> None:
    async def work() -> None:
        async with receiving() as (made, port):
            senders = Senders()
            texts = [f"{n}-{m}" for n in range(8) for m in range(50)]

            async def answer(inbox: Inbox, n: int) -> None:
                line = await senders.to(inbox.address)
                for text in texts[n::8]:
                    line.put(inbox.address.number, [added(text)])
                    await asyncio.sleep(0)
                line.put(inbox.address.number, [Ended(0, n)])
                await line.flush()

            async def ask(n: int) -> None:
                with made.inbox(port, 1) as inbox:
                    _, events = await asyncio.gather(answer(inbox, n), everything(inbox))
                assert events == [*map(added, texts[n::8]), Ended(0, n)]

            await asyncio.gather(*map(ask, range(8)))

    run(work)


def test_what_happens_at_once_is_one_frame_on_one_connection() -> None:
    lengths: list[int] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await prove(reader, writer, b"secret", accepted=True)
        with suppress(EOFError):
            while True:
                lengths.append(len(await read_frame(reader)))

    async def work() -> None:
        server = await asyncio.start_server(accept, HOST, 0)
        address = ReturnAddress(HOST, server.sockets[0].getsockname()[1], b"secret", 0)
        senders = Senders()
        lines = await asyncio.gather(*(senders.to(replace(address, number=n)) for n in range(30)))
        assert len(set(map(id, lines))) == 1
        for step in range(4):
            for number in range(30):
                lines[0].put(number, [added(str(step))])
            await lines[0].flush()
        await until(lambda: sum(lengths) == 120)
        assert lengths == [30] * 4
        server.close()

    run(work)


def test_what_is_gathered_while_nobody_reads_is_read_at_once() -> None:
    async def work() -> None:
        inbox = Inbox(ReturnAddress(HOST, 1, b"", 0), 2)
        inbox.put([added("a")])
        inbox.put([Ended(1, 1)])
        inbox.put(KeyError("late"))
        stream = aiter(inbox)
        assert await anext(stream) == [added("a"), Ended(1, 1)]
        with pytest.raises(KeyError, match="late"):
            await anext(stream)

    run(work)


def test_what_comes_for_a_call_that_was_left_is_dropped() -> None:
    async def work() -> None:
        async with receiving() as (made, port):
            senders = Senders()
            with made.inbox(port, 1) as left:
                pass
            with made.inbox(port, 1) as inbox:
                line = await senders.to(inbox.address)
                line.put(left.address.number, [added("x")])
                line.put(inbox.address.number, [Ended(0, 1)])
                assert await everything(inbox) == [Ended(0, 1)]

    run(work)


def test_an_address_that_is_translated_on_its_way_is_listened_for_everywhere() -> None:
    async def work() -> None:
        made = Receiver("203.0.113.9")  # nobody's
        port = await made.port()
        with made.inbox(port, 1) as inbox:
            line = await Senders().to(replace(inbox.address, host=HOST))
            line.put(inbox.address.number, [Ended(0, 1)])
            assert await everything(inbox) == [Ended(0, 1)]
        await made.close()

    run(work)


# -- who is let in ---------------------------------------------------------------------------------


def test_strangers_are_sent_away_and_get_nothing_to_work_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "HANDSHAKE_S", 0.2)

    async def work() -> None:
        async with receiving() as (made, port):
            with made.inbox(port, 1) as inbox:
                forged = pack([Message.of(inbox.address.number, [Ended(0, 1)])])
                for said in (b"", b"x" * 5, b"x" * 64 + forged, b"GET / HTTP/1.1\r\n\r\n" * 9):
                    reader, writer = await asyncio.open_connection(HOST, port)
                    writer.write(said)
                    given = await reader.read()
                    assert len(given) <= frames.NONCE_BYTES
                    writer.close()
                assert not inbox.ended
                line = await Senders().to(inbox.address)
                line.put(inbox.address.number, [Ended(0, 1)])
                assert await everything(inbox) == [Ended(0, 1)]

    run(work)


def test_a_proof_is_good_once() -> None:
    """Whoever has seen a connection begin can't begin one with what was said there."""

    async def work() -> None:
        async with receiving() as (made, port):
            with made.inbox(port, 1) as inbox:
                said: list[bytes] = []
                reader, writer = await asyncio.open_connection(HOST, port)
                write = writer.write

                def overheard(data: bytes) -> None:
                    said.append(data)
                    write(data)

                writer.write = overheard  # type: ignore[assignment, method-assign]
                await prove(reader, writer, inbox.address.secret, accepted=False)
                again, replay = await asyncio.open_connection(HOST, port)
                replay.write(b"".join(said))
                assert len(await again.read()) == frames.NONCE_BYTES

    run(work)


def test_a_replica_sends_nothing_to_somebody_else() -> None:
    async def work() -> None:
        heard: list[bytes] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"y" * 64)
            heard.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(accept, HOST, 0)
        address = ReturnAddress(HOST, server.sockets[0].getsockname()[1], b"secret", 0)
        with pytest.raises(PermissionError):
            await Senders().to(address)
        server.close()
        await until(lambda: bool(heard))
        assert len(heard[0]) == 2 * frames.NONCE_BYTES

    run(work)


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", pack([])[:2]])
def test_what_is_no_frame_ends_its_connection_alone(sent: bytes) -> None:
    async def work() -> None:
        async with receiving() as (made, port):
            with made.inbox(port, 1) as inbox:
                reader, writer = await asyncio.open_connection(HOST, port)
                await prove(reader, writer, inbox.address.secret, accepted=False)
                writer.write(sent)
                writer.write_eof()
                assert await reader.read() == b""
                line = await Senders().to(inbox.address)
                line.put(inbox.address.number, [Ended(0, 1)])
                assert await everything(inbox) == [Ended(0, 1)]

    run(work)


def certificates(folder: Path) -> dict[str, str]:
    authority = trustme.CA()
    own = authority.issue_cert("node-1.cluster.test")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": str(folder / "ca.pem"),
        "RAY_TLS_SERVER_CERT": str(folder / "cert.pem"),
        "RAY_TLS_SERVER_KEY": str(folder / "key.pem"),
    }


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in certificates(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("encrypted")
def test_where_ray_has_tls_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with receiving() as (made, port):
            with made.inbox(port, 1) as inbox:
                line = await Senders().to(inbox.address)
                line.put(inbox.address.number, [Ended(0, 1)])
                assert await everything(inbox) == [Ended(0, 1)]
                plain, writer = await asyncio.open_connection(HOST, port)
                writer.write(b"x" * 64)
                assert len(await plain.read()) < frames.NONCE_BYTES  # an alert of TLS at most
                other = tmp_path / "other"
                other.mkdir()
                for name, value in certificates(other).items():
                    monkeypatch.setenv(name, value)
                with pytest.raises(OSError, match="certificate verify failed"):
                    await Senders().to(inbox.address)

    run(work)
