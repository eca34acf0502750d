"""Who may talk to the server: API keys, and the Host header when it listens on loopback.

Must not: log or echo a key. Invariant: without keys only requests that name a loopback host are served, so that a
web page cannot reach the server under a name of its own (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac

from aiohttp import web

from proxy.configuration.config import Server, is_loopback
from proxy.errors import RequestError

OPEN_PATHS = frozenset({"/health", "/ready"})


def check_access(request: web.Request, server: Server) -> None:
    """Raises RequestError (`unauthorized` or `forbidden`)."""
    if server.keys:
        if request.path in OPEN_PATHS:
            return
        if not has_key(request, server):
            raise RequestError("unauthorized", "the API key is missing or wrong; send it as x-api-key or Bearer token")
        return
    host = request.headers.get("host", "")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if not is_loopback(name):
        raise RequestError("forbidden", "Host: this server answers to loopback names only; set server.keys to open it")


def has_key(request: web.Request, server: Server) -> bool:
    """Whether it came with a key, or none is asked for: paths that are open show less without."""
    return not server.keys or _accepted(request, server) is not None


def owner(request: web.Request, server: Server) -> str:
    """Whose request it is: a hash of the key that opened the server for it; "" where no keys are asked for."""
    if not server.keys:
        return ""
    key = _accepted(request, server) or ""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _accepted(request: web.Request, server: Server) -> str | None:
    """The key it came with. Either header may hold it: Claude Code sends ANTHROPIC_API_KEY in one and
    ANTHROPIC_AUTH_TOKEN in the other where both are set, and one of them is for somebody else."""
    headers = request.headers
    for given in (headers.get("x-api-key", ""), _bearer(headers.get("authorization", ""))):
        if any(_equal(given, key) for key in server.keys):
            return given
    return None


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _equal(given: str, key: str) -> bool:
    # headers are decoded with surrogates for bytes that are no UTF-8
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())
