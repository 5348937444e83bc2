"""Who may ask: keys, known by their digests alone.

A key is 32 random bytes, so a plain SHA-256 of it is as good as a slow one. Every path takes a key,
also those that do not exist, but for the few that are named one by one as open.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import GemmarayError

from .errors import ApiError

PREFIX = "gr-"
CALLER = "gemmaray.caller"
LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})")


class KeyFileError(GemmarayError):
    """A file of keys can't be used."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is.

    Attributes:
        name: of the key.
        salt: keeps what is computed of his prompts apart from those of others, so that nobody finds
            out by the time an answer takes what another one has asked (CVE-2025-46570).
    """

    name: str
    salt: bytes


ANYBODY = Caller("anonymous", b"")


@dataclass(frozen=True, slots=True)
class Keys:
    """Digests of keys and whose they are."""

    names: Mapping[bytes, str]

    @classmethod
    def read(cls, path: str) -> "Keys":
        """Read a file of keys; empty lines and those that begin with # don't count.

        Raises:
            KeyFileError: it can't be read, holds no key, or a line is none. No line is quoted.
        """
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise KeyFileError(f"can't read the key file {path}: {error}") from None
        names: dict[bytes, str] = {}
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith("#"):
                continue
            match = LINE.fullmatch(line)
            if match is None:
                raise KeyFileError(
                    f"{path}, line {number} is not NAME sha256:DIGEST; "
                    "`gemmaray api-key FILE NAME` writes such a line"
                )
            names[bytes.fromhex(match["digest"])] = match["name"]
        if not names:
            raise KeyFileError(f"{path} holds no key: `gemmaray api-key FILE NAME` makes one")
        return cls(names)

    def caller(self, authorization: bytes | None) -> Caller | None:
        """Find whose key an Authorization header holds, in the same time whatever it is."""
        scheme, _, key = (authorization or b"").partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found: Caller | None = None
        for known, name in self.names.items():
            if hmac.compare_digest(known, digest):
                found = Caller(name, hashlib.sha256(b"prefixes of " + known).digest())
        return found if scheme.lower() == b"bearer" else None


def new_key(name: str) -> tuple[str, str]:
    """Make a key; give it, and the line for the file of keys.

    Raises:
        KeyFileError: the name can't be used.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    if not LINE.fullmatch(line):
        raise KeyFileError("a key's name is up to 64 letters, digits, and any of . _ @ -")
    return key, line


def add_key(file: Path, name: str) -> str:
    """Make a key, and put its digest into a file that nobody else may read, if it is new.

    Raises:
        KeyFileError: the name can't be used, or the file can't be written.
    """
    key, line = new_key(name)
    try:
        descriptor = os.open(file.expanduser(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as keys:
            keys.write(f"{line}\n")
    except OSError as error:
        raise KeyFileError(f"can't write {file}: {error}") from None
    return key


def local_path(scope: Scope) -> str:
    """Give the path of a request below where the application is mounted."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


class Access:
    """ASGI middleware: tells later parts who calls, or answers 401.

    Args:
        app: what it stands before.
        keys: None lets everybody in.
        open_paths: need no key; whole paths, never beginnings of some.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (caller := self._caller(scope)) is not None:
            scope[CALLER] = caller
            await self._app(scope, receive, send)
        else:
            await _refusal().response()(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller | None:
        if self._keys is None:
            return ANYBODY
        # The first one counts: two of them would mean different things to different parts.
        header = next((v for name, v in scope["headers"] if name == b"authorization"), None)
        caller = self._keys.caller(header)
        return ANYBODY if caller is None and local_path(scope) in self._open_paths else caller


def _refusal() -> ApiError:
    return ApiError(
        401,
        "this server needs an API key: Authorization: Bearer KEY",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )
