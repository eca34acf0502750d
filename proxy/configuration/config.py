"""Every setting, with its default, its limits and, as text after it, what it is for.

The text after a key, or after several that belong together, is what `examples/config.example.toml` says of them: that
file is written from here (`proxy.configuration.example`). Where values come from: `proxy.configuration.sources`.

Must not: read a file or the environment. Invariant: a Config is complete and consistent, and refuses what nobody reads.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from detectors.settings import DetectorSettings
from policies.modes import DecodeMode
from proxy.configuration.detector_section import laid_over, plain
from proxy.lanes.settings import Lanes


class ConfigProblem(Exception):
    """The configuration cannot be used; the message names the key and the remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Server(_Section):
    """Where to listen and how much to accept."""

    host: str = "127.0.0.1"
    """Address to listen on. Any other than a loopback address needs `keys`."""
    port: int = Field(default=8787, ge=0, le=65535)
    """TCP port. 0 = a free one, which the start lines name."""
    keys: tuple[str, ...] = ()
    """API keys, any of which opens the server (x-api-key or Bearer token). None = only loopback names are answered.
    Better set by SPECGUARD_SERVER__KEYS='["..."]' than in a file."""
    max_body_bytes: int = Field(default=64 << 20, ge=1024)
    """Largest request body in bytes. Agents send their whole history, so this is large."""
    body_s: float = Field(default=60.0, gt=0)
    """Seconds that a request's body may take to arrive."""
    idle_s: float = Field(default=75.0, gt=0)
    """Seconds that a connection may stay open without a complete request."""
    unread_s: float = Field(default=60.0, gt=0)
    """Seconds that a client may read nothing of what was sent, after which it is cut off. The engine stands still
    meanwhile."""
    keepalive_s: float = Field(default=10.0, gt=0, le=240)
    """Seconds of silence in a stream after which a comment or ping is sent, so that no proxy closes the connection."""
    drain_s: float = Field(default=20.0, ge=0)
    """Seconds that running responses get to end after Ctrl-C or SIGTERM."""

    @field_validator("keys")
    @classmethod
    def _no_empty_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(key.strip() == key != "" for key in value):
            raise ValueError("a key is empty or has blanks around it, so that no client could send it; take it out")
        return value


class Model(_Section):
    """Which model to serve, and how many responses at once."""

    path: str = ""
    """Folder in Hugging Face layout. "" = the embedded model."""
    name: str = ""
    """Name that clients ask for. "" = the folder's name."""
    aliases: tuple[str, ...] = ()
    """Further names that clients may ask for."""
    any_name: bool = False
    """Answer to every model name, for clients that cannot be told one."""
    device: str = "cpu"
    """torch device: cpu, cuda, cuda:N, mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on a GPU, and on a CPU where it is measured to be 1.5 times faster at start-
    up."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of the engine. Small models are fastest with one."""
    max_turns: int = Field(default=8, ge=1)
    """Responses in the making at once: they share forward passes. Each needs memory for its own KV cache."""
    max_waiting: int = Field(default=16, ge=0)
    """Requests that may wait for their turn, first come, first served; one more is told to retry."""
    kept_prefixes: int = Field(default=8, ge=0)
    kept_prefix_mib: int = Field(default=4096, ge=0)
    """Conversations kept for prefix reuse, and what they may hold together (MiB); those used longest ago go first."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", value):
            raise ValueError(f"{value!r} is unknown; use cpu, cuda, cuda:N or mps")
        return value


class Decode(_Section):
    """Decode mode, defaults, and what checks it.

    The shadow is off for compressed caches too: their own audit (`engine.cache_audit`) sees the known faults for a
    tenth of what it costs.
    """

    mode: str = "mtp+ngram"
    """plain, ngram, mtp or mtp+ngram. The text is the same in all of them, the speed is not. Behind a slash, how the KV
    cache is stored: mtp+ngram/k4v4. full, k8v8, k8v4, k4v4 (= turboquant), k4v2 or k3v3; fewer bits take less memory
    and change what the model says."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """For requests that name none. 0 = always the most probable token."""
    seed: int = Field(default=-1, ge=-1, lt=2**63)
    """For requests that name none (the Anthropic API has no such field). -1 = another one for each response."""
    audit_every: int = Field(default=16, ge=0)
    """The first verify step of a response and then one in so many is computed again row by row. 0 = none."""
    audit_share: float = Field(default=0.005, gt=0, le=1)
    """Most of the decoding time that this may take; what is due waits for room, except in the first responses after a
    start, at lengths of context that are new, and for a while after something was found. 1 = whatever it takes."""
    per_request: bool = True
    """Let a request choose for itself: `speculative: {enabled, types, n_max}` and `kv` in its body. Breakers and trust
    hold for what it chooses too. false = such a request is refused."""
    force_low_bits: bool = False
    """Allow keys of less than 4 bits (k3v3) for requests with tools, although they break tool calls."""
    shadow_mib: int = Field(default=0, ge=0)
    """Host memory (MiB) for full-precision copies of prompts whose cache is compressed. With it a fall back to a full
    cache need not prefill again, and prompts are read in full precision. 0 = none."""
    shadow_every: int = Field(default=0, ge=0)
    """A position is computed again from a clean cache after so many tokens of a response (0 = never): shows a damaged
    cache, costs a second prefill and a second cache while the response lasts, and three steps for each check of 16
    tokens. Compressed caches are checked without it (codes read back, sealed, read twice), which costs 1 to 2 %; this
    is for faults that such checks do not know of, and for full caches."""

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        DecodeMode.parse(value)
        return value


class Guard(_Section):
    """What findings lead to. None = as the policy says; see `policies.policy.Policy`."""

    policy: str = ""
    """A file of rules: what a finding leads to, for which models, tools and clients. "" = the shipped policy, which
    `specguard policy show` prints with its reasons; `specguard policy check FILE` checks one of your own."""
    action: Literal["enforce", "observe"] | None = None
    """Quick overrides: what is set here wins over the policy file and all it says for some requests. enforce: rewind or
    end a response that went wrong. observe: record it and change nothing."""
    max_rewinds: int | None = Field(default=None, ge=0, le=16)
    """Rewinds in one response before it is ended."""
    session_rewinds: int | None = Field(default=None, ge=0)
    session_hours: float | None = Field(default=None, gt=0, le=24 * 365)
    """Rewinds in one session within so many hours, after which it is served in plain decoding. 0 = no limit."""
    hold_call_chars: int | None = Field(default=None, ge=1024)
    """Characters of a tool call that are held back until it is complete; a longer one is given up."""
    hold_call_s: float | None = Field(default=None, ge=0)
    """Seconds that the engine may work on a call before it is given up. Clients wait for 600 s. 0 = no limit."""
    hold_text_chars: int | None = Field(default=None, ge=1024)
    """Characters of text that are held back at most."""
    repair: bool | None = None
    """Mend a refused call that no safer mode is left for, if only its end is wrong: a comma too many, closers that are
    missing, a code fence around it. The client then acts on arguments that the model did not write."""
    max_call_cycles: int | None = Field(default=None, ge=0, le=64)
    """Times that an agent may make the same calls with the same results, to the byte, before it is stopped with a
    notice. From the third time on it is served without speculation. 0 = never, 64 at most; 5 suits agents that nobody
    watches."""
    scrub_history: bool | None = None
    """Of a loop that was cut and comes back with the client's history one copy stays, or the model falls into it
    again."""

    def quick(self) -> dict[str, Any]:
        """What was set here."""
        return self.model_dump(exclude={"policy"}, exclude_none=True)


class Breaker(_Section):
    """When a decode mode is taken out of service, and how it comes back; see `policies.breaker`, `proxy.trust`."""

    trips: int = Field(default=3, ge=1, le=32)
    window_s: float = Field(default=1800.0, gt=0)
    """A decode mode is taken out of service, for contexts of such a length and longer ones, by one certain trip or by
    so many likely ones within window_s. GET /ready shows it, `specguard trust reset` undoes it."""
    cool_down_s: float = Field(default=60.0, gt=0)
    most_cool_down_s: float = Field(default=3600.0, gt=0)
    """Seconds until a canary may look whether it is sound again; doubles each time that it is not."""
    canary_tokens: int = Field(default=262144, ge=0)
    """Tokens that one canary may compute: the context at which the mode tripped, twice if its cache is compressed, and
    some hundreds. 0 = no canaries."""
    canary_quiet_s: float = Field(default=2.0, ge=0)
    """Canaries run when nobody has asked for anything for so many seconds, and stop when somebody does."""

    @model_validator(mode="after")
    def _rising(self) -> Breaker:
        if self.cool_down_s > self.most_cool_down_s:
            raise ValueError(
                f"cool_down_s is {self.cool_down_s:g}, more than most_cool_down_s, {self.most_cool_down_s:g}, to which "
                "it doubles; raise that one too"
            )
        return self


class Trust(_Section):
    """Up to which context decode modes are trusted."""

    qualification: str = ""
    """File that says up to which context each mode is trusted, written by `specguard qualify`. "" = none."""
    ceiling_tokens: int = Field(default=0, ge=0)
    """Without such a file: tokens of context from which on a response starts in plain mode. 0 = never, or always if the
    file is of another model."""
    path: str = ""
    """Where open breakers are kept across restarts. "" = beside the incident store."""


class Incidents(_Section):
    """Where incidents are kept; see `proxy.replays.capture`, `proxy.incidents.retention`."""

    path: str = "specguard-incidents.sqlite"
    """SQLite file, made with the first incident."""
    capture: bool = False
    """Store with each incident what it takes to replay it: the conversation, what the model wrote, and the tokens of
    both. What looks like a secret is taken out, and such a conversation can then not be replayed to the token."""
    max_mib: int = Field(default=256, ge=0)
    max_days: int = Field(default=30, ge=0, le=36500)
    """Size of the file in MiB, and days after which an incident is removed. Captures go first, the oldest first. 0 = no
    limit."""

    @field_validator("path")
    @classmethod
    def _names_a_file(cls, value: str) -> str:
        if not Path(value).name:
            raise ValueError(f"{value!r} names no file; write one such as specguard-incidents.sqlite")
        return value


class Replay(_Section):
    """Responses that were rewound are run again to find the layer at fault."""

    automatic: bool = True
    max_tokens: int = Field(default=1024, ge=64)
    max_seconds: float = Field(default=30.0, gt=0)
    quiet_s: float = Field(default=2.0, ge=0)
    """After a fallback the response is run again, as it was and with one thing changed at a time, to find the layer at
    fault: speculation, KV cache, prefix cache, filter, or the model. The verdict is added to the incident. Runs begin
    when nobody has been served for quiet_s seconds and end within one step when somebody comes; their budget is per
    incident."""


class Log(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info, warning or error. Log lines go to stderr and never hold prompts or model text."""


class Telemetry(_Section):
    """OpenTelemetry; see `proxy.telemetry`."""

    endpoint: str = ""
    """Where a collector takes OTLP over HTTP, such as http://127.0.0.1:4318. "" = nothing is sent. A span for each
    request with its incidents, and durations; never prompts or what the model wrote. Needs `specguard[otel]`."""

    @field_validator("endpoint")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
            raise ValueError(f"{value!r} is no address; write one such as http://127.0.0.1:4318")
        return value


class Config(_Section):
    """The whole configuration.

    detectors: the numbers that they go by; what is not set is as shipped and measured.
    """

    server: Server = Server()
    model: Model = Model()
    lanes: Lanes = Lanes()
    decode: Decode = Decode()
    guard: Guard = Guard()
    detectors: DetectorSettings = Field(default_factory=DetectorSettings)
    breaker: Breaker = Breaker()
    trust: Trust = Trust()
    incidents: Incidents = Incidents()
    replay: Replay = Replay()
    telemetry: Telemetry = Telemetry()
    log: Log = Log()
    plant: str = ""
    """Name of an engine fault to plant on purpose, to see the guard at work (verify-ignores-cache). "" = none. It
    stands above the sections because it belongs to none of them."""

    @field_validator("detectors", mode="before")
    @classmethod
    def _as_shipped(cls, value: Any) -> Any:
        return laid_over(DetectorSettings(), value)

    @field_serializer("detectors")
    def _as_data(self, value: DetectorSettings) -> Any:
        return plain(value)

    @model_validator(mode="after")
    def _no_open_door(self) -> Config:
        if not is_loopback(self.server.host) and not self.server.keys:
            raise ValueError(
                f"server.host: listening on {self.server.host} needs server.keys, or anybody who reaches this "
                "machine can use the model; set keys or use 127.0.0.1"
            )
        return self


def config_sha256(config: Config) -> str:
    """Of everything that is configured, keys of clients apart: equal for two servers that do the same."""
    plain = config.model_dump(mode="json")
    plain["server"]["keys"] = len(config.server.keys)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


def is_loopback(host: str) -> bool:
    """Is it a loopback address or a name for one?"""
    if host in _LOOPBACK:  # as nearly always, and asked for each request
        return True
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
