"""`specguard env CLIENT`: asks a running server what it serves and prints the settings of a client.

Must not: start anything, or change a client's configuration itself.
Invariant: standard output holds the settings alone, so that `eval "$(specguard env claude)"` works.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from proxy.commands.client_settings import CLIENTS, Endpoint
from proxy.configuration.config import ConfigProblem, is_loopback

DEFAULT_URL = "http://127.0.0.1:8787"
LIMIT_S = 5.0


def add(env: argparse.ArgumentParser) -> None:
    """Its arguments."""
    env.description = (
        "Asks the server for its model and context window, and prints what the client needs: a "
        'configuration file for codex and opencode, shell lines for the others (eval "$(specguard env claude)").'
    )
    env.add_argument("client", choices=sorted(CLIENTS), help="which client")
    env.add_argument("--url", default=DEFAULT_URL, help=f"where the server listens (default {DEFAULT_URL})")
    env.add_argument("--key", default=os.environ.get("SPECGUARD_KEY", ""), help="server key (default $SPECGUARD_KEY)")
    env.set_defaults(run=_env)


def _env(options: argparse.Namespace) -> int:
    print(CLIENTS[options.client](ask(options.url, options.key)))
    return 0


def ask(url: str, key: str = "") -> Endpoint:
    """What the server at `url` serves. Raises ConfigProblem with a remedy."""
    base = _base(url)
    if not (key.isascii() and key.isprintable()):
        raise ConfigProblem("--key: has characters that no header can carry; give one of server.keys")
    request = urllib.request.Request(f"{base}/v1/models", headers={"authorization": f"Bearer {key}"} if key else {})
    try:
        with _opener(base).open(request, timeout=LIMIT_S) as response:
            model = json.load(response)["data"][0]
            served = Endpoint(base, str(model["id"]), int(model["max_model_len"]), key or "local")
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise ConfigProblem(f"--key: {base} asks for a key that it knows; give one of server.keys") from None
        raise ConfigProblem(f"--url: {base} answers with status {error.code}; is it a specguard server?") from None
    except (OSError, TimeoutError):
        raise ConfigProblem(f"--url: nothing answers at {base}; start `specguard serve` or name its address") from None
    except (http.client.HTTPException, ValueError, KeyError, IndexError, TypeError):
        raise ConfigProblem(f"--url: {base} does not answer as a specguard server; name another address") from None
    if served.context < 1:  # clients refuse a window of 0 tokens, or read it as a limit
        raise ConfigProblem(f"--url: {base} is still loading its model; ask again when {base}/ready says so")
    return served


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key would go wherever one points."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(base: str) -> urllib.request.OpenerDirector:
    """Past the proxy of the environment where the server is on this machine, of which that knows nothing."""
    near = is_loopback(urlsplit(base).hostname or "")
    return urllib.request.build_opener(_NoRedirects, *([urllib.request.ProxyHandler({})] if near else []))


def _base(url: str) -> str:
    """Scheme, host and port."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", parts.netloc)
        _ = parts.port  # raises for what is no number
    except ValueError:
        known = False
    if not known:
        raise ConfigProblem(f"--url: {url!r} is no address; write one such as {DEFAULT_URL}")
    return f"{parts.scheme}://{parts.netloc}"
