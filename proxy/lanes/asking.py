"""Small questions to a lane's server, for probes, scrapes and the meter: bounded in time and in bytes.

Must not: follow a redirect, use a proxy of the environment, send a lane's key anywhere but to the lane, or raise
anything but `Unanswered`. Client responses do not come this way.
Invariant: a body longer than `most_bytes` is not read to its end, and no call takes longer than `seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from proxy.lanes.reading import error_text, hide
from proxy.lanes.settings import Lane

SECONDS = 60.0
MOST_BYTES = 1 << 20
METRICS_BYTES = 8 << 20
"""A data-parallel server has some thousand lines of histograms for each engine."""
TOLD = 200
"""Characters of what a server says that are repeated in a message of ours."""


UNTOLD = error_text({})


class Unanswered(Exception):
    """There is no usable answer. status: that came, 0 = none did; told: what the server said, shortened."""

    def __init__(self, why: str, status: int = 0, told: str = "") -> None:
        super().__init__(why)
        self.status, self.told = status, told


@dataclass(frozen=True, slots=True)
class Target:
    """A lane as it is configured. url: with or without `/v1`. metrics_urls: of each engine behind it, empty = that of
    the server itself. kind: "" = to be found out.
    """

    name: str
    url: str
    model: str = ""
    key: str = field(default="", repr=False)
    metrics_urls: tuple[str, ...] = ()
    kind: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, name: str, lane: Lane, environment: Mapping[str, str]) -> Target:
        """A lane of the configuration."""
        kind = "" if lane.kind == "auto" else lane.kind
        key, secrets = lane.key_in(environment), lane.secrets_in(environment)
        return cls(name, lane.url, lane.model, key, lane.metrics_urls, kind, lane.header_map(), secrets)

    @property
    def root(self) -> str:
        """Without `/v1`: where the endpoints lie that are a server's own."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    @property
    def scraped(self) -> tuple[str, ...]:
        if self.metrics_urls:
            return self.metrics_urls
        # a router of llama.cpp answers for one model at a time; others do not look at the query
        query = f"?model={quote(self.model, safe='')}" if self.model else ""
        return (f"{self.root}/metrics{query}",)


class Asker:
    """Asks one lane. An asynchronous context, since it holds connections."""

    def __init__(self, target: Target, seconds: float = SECONDS, most_bytes: int = MOST_BYTES) -> None:
        self.target, self._seconds, self._most = target, seconds, most_bytes
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Asker:
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def get(self, path: str, most_bytes: int | None = None) -> bytes:
        """The body of a GET. path: below the lane's root, or a whole address (of metrics)."""
        async with self._opened("GET", path, None) as response:
            return await self._body(response, most_bytes or self._most)

    async def get_value(self, path: str) -> Any:
        """The JSON value that a GET answers."""
        return _json(await self.get(path), path)

    async def get_object(self, path: str) -> dict[str, Any]:
        """The JSON object that a GET answers."""
        return _object(await self.get(path), path)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that a POST answers."""
        async with self._opened("POST", path, body) as response:
            return _object(await self._body(response, self._most), path)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The JSON values of a stream's `data:` lines, up to its end; `[DONE]` is not among them."""
        read, rest = 0, b""
        async with self._opened("POST", path, body) as response:
            async for chunk in response.content.iter_any():
                read += len(chunk)
                if read > self._most:
                    raise Unanswered(f"{path} streams more than {self._most} bytes")
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                        yield _json(data, path)

    @asynccontextmanager
    async def _opened(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._http is None:
            raise RuntimeError("an Asker is used as a context")
        url = path if "://" in path else f"{self.target.root}{path}"
        own = url.startswith(f"{self.target.root}/")
        headers = {"content-type": "application/json"} if body is not None else {}
        if own:  # metrics may lie elsewhere, and elsewhere its key and headers are nobody's business
            headers |= self.target.headers
            if self.target.key:
                headers["authorization"] = f"Bearer {self.target.key}"
        data = None if body is None else orjson.dumps(body)
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._http.request(method, url, data=data, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    told = _told(await self._body(response, self._most), self.target.secrets)
                    raise Unanswered(f"{path} answers {response.status}", response.status, told)
                yield response
        except TimeoutError:
            raise Unanswered(f"{path} does not answer within {self._seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unanswered(f"{path}: {_short(str(error) or type(error).__name__)}") from None

    @staticmethod
    async def _body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most_bytes:
                raise Unanswered(f"{response.url.path} answers more than {most_bytes} bytes", response.status)
        return bytes(body)


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a server sends."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def _json(data: bytes, path: str) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        raise Unanswered(f"{path} answers what is no JSON") from None


def _object(data: bytes, path: str) -> dict[str, Any]:
    value = _json(data, path)
    if not isinstance(value, dict):
        raise Unanswered(f"{path} answers no JSON object")
    return value


def _told(body: bytes, secrets: Collection[str]) -> str:
    """What an error body says: its message where there is one, else as it stands."""
    try:
        value = orjson.loads(body)
    except ValueError:
        value = None
    message = error_text(value, secrets) if isinstance(value, dict) else UNTOLD
    if message == UNTOLD:  # no secret is cut in two
        message = hide(body.decode("utf-8", "replace"), secrets)
    return _short(message[: 4 * TOLD])


def _short(text: str) -> str:
    """On one line, without what could command a terminal."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= TOLD else f"{plain[:TOLD]}..."
