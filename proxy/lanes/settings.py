"""The `[lanes]` section of the configuration: which servers a pool consists of, and how long they are waited for.

Must not: read the environment, or ask a server anything.
Invariant: a pool that is configured has a fast lane with an address; its plain lane is another one, told apart by
address or by model name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from policies.modes import DecodeMode

LaneName = Literal["fast", "plain"]
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~]*)")
SHORTEST_SECRET = 4
"""Characters; what is shorter is part of every sentence."""
_OURS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "accept"}
) | {"content-encoding", "expect", "keep-alive", "te", "trailer", "upgrade"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lane(_Section):
    """One server, router or deployment."""

    url: str = ""
    """Address of the server, with or without /v1. "" = no such lane; for the plain lane: that of the fast one."""
    model: str = ""
    """Model to ask it for, such as the name of a preset behind a llama.cpp router. "" = the only one that it serves;
    for the plain lane: that of the fast one."""
    kind: Literal["auto", "vllm", "sglang", "llamacpp", "openai"] = "auto"
    """vllm, sglang, llamacpp, openai (any other that speaks the API), or auto: it is asked at the start."""
    mode: str = ""
    """Decode mode that it runs in, such as mtp/k4v4, where the server cannot tell. "" = as it tells; if it does not,
    mtp/full for the fast lane and plain for the other."""
    window: int = Field(default=0, ge=0)
    """Context window in tokens, where the server cannot tell. 0 = as it tells; if it does not, 32768."""
    key_env: str = ""
    """Name of the environment variable that holds its API key. "" = it needs none."""
    headers: tuple[str, ...] = ()
    """Further headers of every request to it, such as ["X-Team: agents"]. Secrets are better left to `key_env`."""
    metrics_urls: tuple[str, ...] = ()
    """Addresses of its metrics, one for each engine behind a router. None = /metrics beside its API."""

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        return _address(value, "http://127.0.0.1:8000") if value else ""

    @field_validator("metrics_urls")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_address(each, "http://127.0.0.1:8000/metrics") for each in value)

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        if value:
            DecodeMode.parse(value)
        return value

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("names an environment variable, such as VLLM_API_KEY; the key itself does not belong here")
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            found = _HEADER.fullmatch(each)
            if found is None:
                raise ValueError(f"{each[:80]!r} is no header; write one such as 'X-Team: agents'")
            if found[1].lower() in _OURS:
                raise ValueError(f"{found[1]} is set by specguard itself; leave it out")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Lane:
        if self.key_env and "authorization" in map(str.lower, self.header_map()):
            raise ValueError("key_env: is sent as the header Authorization, which headers sets too; keep one of them")
        return self

    @property
    def root(self) -> str:
        """The address without `/v1`: where the endpoints lie that are a server's own."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    def header_map(self) -> dict[str, str]:
        pairs = (each.partition(":") for each in self.headers)
        return {name: value.strip() for name, _, value in pairs}

    def key_in(self, environment: Mapping[str, str]) -> str:
        """Its API key, "" = none. Files that keys are read from end with a line break."""
        return environment.get(self.key_env, "").strip() if self.key_env else ""

    def secrets_in(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """What a server knows of us and must not be heard to say: its key, and headers that may be one."""
        headers = (value for value in self.header_map().values() if len(value) >= SHORTEST_SECRET)
        said = (self.key_in(environment), *headers)
        return tuple(word for each in said for word in (each, each.rpartition(" ")[2]) if len(word) >= SHORTEST_SECRET)


class Lanes(_Section):
    """Other people's servers in place of the built-in engine: a fast lane, and a plain one to fall back to.

    Nothing of it is used while `fast.url` is empty.
    """

    fast: Lane = Lane()
    plain: Lane = Lane()
    pass_headers: tuple[str, ...] = ("x-session-id", "x-session-affinity", "traceparent", "tracestate")
    """Headers of a client's request that go on to the lanes, for routers that keep a session on one engine. Add
    "cookie" where they do it by cookies. X-Request-Id always goes on, and X-Session-ID is set where a client has
    none."""
    connect_s: float = Field(default=5.0, gt=0)
    first_s: float = Field(default=600.0, gt=0)
    between_s: float = Field(default=60.0, gt=0)
    total_s: float = Field(default=3600.0, gt=0)
    """Seconds that a lane may take: to be connected to, for its first event (it queues and reads the prompt until
    then), between two events of a stream, and for a whole response. Keep-alives are no events."""
    retries: int = Field(default=2, ge=0, le=8)
    """Times that a request is sent again to a lane that refuses the connection or answers 502, 503 or 504. Never once
    it has begun to answer."""
    event_bytes: int = Field(default=8 << 20, ge=4096)
    """Largest event of a stream, in bytes. vLLM's first one holds the ids of the whole prompt: 7 bytes for a token."""
    cache_salt: str = ""
    """Sent with every request to lanes that know it (vLLM, SGLang), so that their prefix cache is not shared with
    others; where `server.keys` are set, hashed with the client's key, so that clients share none either. After a fall
    back a fresh one is drawn in any case, so that no damaged prefix is taken over."""
    tokenize: bool = True
    """Let lanes count tokens where they can (/tokenize). false = they are estimated from the number of characters."""

    look_every_s: float = Field(default=15.0, ge=0.05, le=3600)
    """Seconds between two looks whether a lane's server answers and is the one from before."""
    metrics_s: float = Field(default=5.0, ge=0)
    """Seconds between two looks at the lanes' metrics, from which the acceptance of drafts is read. 0 = none."""
    meter_share: float = Field(default=0.02, ge=0, le=1)
    meter_tokens: int = Field(default=500_000, ge=0)
    """Share of the fast lane's turns that are held against the plain lane, token by token, when nobody waits, and how
    many tokens that may take in an hour, prompts included. GET /ready and /metrics show the drift. The plain lane must
    score given tokens (vLLM, SGLang). 0 = none."""

    @field_validator("pass_headers")
    @classmethod
    def _may_be_passed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HEADER.fullmatch(f"{name}:"):
                raise ValueError(f"{name[:80]!r} is no header name")
            if name.lower() in _OURS or name.lower() in ("authorization", "x-api-key", "proxy-authorization"):
                raise ValueError(f"{name} may not be passed on: the keys of clients are not those of lanes")
        return tuple(name.lower() for name in value)

    @model_validator(mode="after")
    def _apart(self) -> Lanes:
        if self.plain != Lane() and not self.fast.url:
            raise ValueError("there is a plain lane but no fast one; set fast.url")
        if self.has_plain and (self.plain_lane.root, self.plain_lane.model) == (self.fast.root, self.fast.model):
            raise ValueError(
                "plain: is the same server and model as fast; give it another url, or the name of another model"
            )
        return self

    @property
    def configured(self) -> bool:
        return bool(self.fast.url)

    @property
    def has_plain(self) -> bool:
        return bool(self.plain.url or self.plain.model)

    @property
    def plain_lane(self) -> Lane:
        """With what it has in common with the fast one."""
        plain, fast = self.plain, self.fast
        if plain.url:
            return plain if plain.model else plain.model_copy(update={"model": fast.model})
        same = {"url": fast.url, "headers": plain.headers or fast.headers, "key_env": plain.key_env or fast.key_env}
        kind = fast.kind if plain.kind == "auto" else plain.kind
        return plain.model_copy(update={**same, "kind": kind, "metrics_urls": plain.metrics_urls or fast.metrics_urls})

    def passed(self, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Those of a client's headers that go on to the lanes. headers: names in any case."""
        if not self.configured:
            return ()
        found = ((name, value) for name, value in headers.items() if name.lower() in self.pass_headers)
        return tuple((name.lower(), value) for name, value in found if value.isascii() and value.isprintable())


def _address(value: str, example: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s?#]*)?", value):
        raise ValueError(
            f"{value[:200]!r} is no address; write one such as {example}, without a name or password in it"
        )
    return value
