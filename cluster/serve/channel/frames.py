"""What travels through a connection: how the two sides come to trust each other, then frames."""

import asyncio
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from actors.calls import Added, Begun, Ended, Event, Failure

NONCE_BYTES = 32
HANDSHAKE_S = 5.0
# More than the texts and log-probabilities of any step; a length beyond it is no frame of ours.
MOST_FRAME_BYTES = 1 << 30
LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class ReturnAddress:
    """Where the answer to a streamed call is to go.

    Attributes:
        host: where the receiver listens.
        port: likewise.
        secret: proves each side to the other; it never travels through the connection itself.
        number: of the call, among those of its receiver.
    """

    host: str
    port: int
    secret: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Message:
    """What happened to one call since the message before, in the order of the fields."""

    number: int
    begun: Begun | None
    added: tuple[Added, ...]
    ended: tuple[Ended, ...]
    failure: Failure | None

    @classmethod
    def of(cls, number: int, events: Sequence[Event]) -> "Message":
        """Sort events by what they are: nothing is added to a prompt that has ended."""
        return cls(
            number,
            next((event for event in events if isinstance(event, Begun)), None),
            tuple(event for event in events if isinstance(event, Added)),
            tuple(event for event in events if isinstance(event, Ended)),
            next((event for event in events if isinstance(event, Failure)), None),
        )

    def events(self) -> list[Event]:
        """Give them again."""
        begun = [] if self.begun is None else [self.begun]
        failure = [] if self.failure is None else [self.failure]
        return [*begun, *self.added, *self.ended, *failure]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Message])


def pack(messages: Sequence[Message]) -> bytes:
    """Give a frame: its length, and the messages as MessagePack."""
    body = _ENCODER.encode(messages)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> list[Message]:
    """Read a frame.

    Raises:
        EOFError: the connection has ended (asyncio.IncompleteReadError is one).
        OSError: it broke.
        ValueError: this is no frame (msgspec.ValidationError is one).
    """
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if length > MOST_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return _DECODER.decode(await reader.readexactly(length))


async def prove(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes, *, accepted: bool
) -> None:
    """Return when the other side is known to have the secret; it learns the same of this one.

    Each sends random bytes, and gives back the HMAC of both sides' bytes and of its own role.

    Args:
        reader: from the other side.
        writer: to it.
        secret: shared by both.
        accepted: whether this side accepted the connection; the other one made it.

    Raises:
        EOFError, OSError: as read_frame; PermissionError: it does not have it.
        TimeoutError: it says nothing (an OSError, too).
    """
    own = secrets.token_bytes(NONCE_BYTES)
    async with asyncio.timeout(HANDSHAKE_S):
        writer.write(own)
        theirs = await reader.readexactly(NONCE_BYTES)
        nonces = own + theirs if accepted else theirs + own
        # Who made the connection proves itself first: a stranger gets no HMAC to work on.
        if not accepted:
            writer.write(_proof(secret, nonces, b"made"))
        given = await reader.readexactly(NONCE_BYTES)
        role = b"made" if accepted else b"accepted"
        if not hmac.compare_digest(given, _proof(secret, nonces, role)):
            raise PermissionError("the other side does not know the secret")
        if accepted:
            writer.write(_proof(secret, nonces, b"accepted"))


def _proof(secret: bytes, nonces: bytes, role: bytes) -> bytes:
    return hmac.digest(secret, nonces + role, "sha256")
