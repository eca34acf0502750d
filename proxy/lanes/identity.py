"""Whose server a lane is and what it says of itself: kind, version, context window, speculation, KV type.

Must not: generate anything, or take a name for a proof: a kind is believed that an endpoint of its own or the model
card bears out.
Invariant: what a server does not say stays None; "none" is what it says it has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args
from urllib.parse import quote

from proxy.lanes.asking import METRICS_BYTES, Asker, Unanswered, number
from proxy.lanes.capabilities import NO_DRAFTS, Kind
from proxy.lanes.exposition import Exposition, Unreadable, together

MOST_ENGINES = 64
METRICS_S = 5.0
MOST_WINDOW = 1 << 32
SAID = 80
"""Characters of a server's own words that are kept."""


class LaneSilent(Exception):
    """A lane does not answer as a server of models does; the message names the lane and the remedy."""


@dataclass(frozen=True, slots=True)
class Identity:
    """speculation, kv: in the server's words. metrics: None = there are none. why: what is not known, and why not."""

    kind: Kind
    version: str = ""
    model: str = ""
    context_window: int | None = None
    speculation: str | None = None
    kv: str | None = None
    prefix_cache: bool | None = None
    metrics: Exposition | None = None
    why: Mapping[str, str] = field(default_factory=dict)


async def identify(asker: Asker) -> Identity:
    """Asks every endpoint that tells. Raises LaneSilent."""
    target, why = asker.target, dict[str, str]()
    card = await _card(asker, why)
    model = target.model or _said(card.get("id"))
    query = f"?model={quote(model, safe='')}" if model else ""
    props = await _optional(asker, f"/props{query}")
    version = await _optional(asker, "/version")
    info = await _optional(asker, "/server_info?config_format=json") or await _optional(asker, "/get_server_info")
    metrics = await scrape(asker, why, some=True)  # what one engine tells of its configuration holds for its lane
    found = _kind(_said(card.get("owned_by")), props, info, metrics)
    kind = _settled(target.kind, found, why)
    said = {"vllm": _vllm, "sglang": _sglang, "llamacpp": _llamacpp}.get(kind, _nothing)(props, info, metrics)
    if not info and "metrics" in why and said.get("speculation") == NO_DRAFTS:
        said["speculation"] = None  # those that do not answer may draft
    if kind == "llamacpp":
        said = await _llamacpp_more(asker, model, said)
    for name in ("speculation", "kv"):
        if said.get(name) is None:
            why[name] = SILENT.get(kind, "no server of unknown kind is asked")
    windows = (number(card.get("max_model_len")), said.get("window"), _window(card))
    window = next((each for each in windows if each is not None and 1 <= each < MOST_WINDOW), None)
    return Identity(
        kind,
        _said(said.get("version") or version.get("version")),
        model,
        None if window is None else int(window),
        said.get("speculation"),
        said.get("kv"),
        said.get("prefix_cache"),
        metrics,
        why,
    )


SILENT = {
    "vllm": "only /server_info (VLLM_SERVER_DEV_MODE=1) and /metrics tell it, and they do not",
    "sglang": "only /server_info or /get_server_info tells it, and it does not",
    "llamacpp": "neither /props nor /slots nor the router's /models tells it",
}


async def scrape(asker: Asker, why: dict[str, str], *, some: bool = False) -> Exposition | None:
    """All that the lane's engines tell, together; None where one of them does not answer, or with `some` where none
    does. why: is told of the first that does not."""
    found = await asyncio.gather(*(_page(asker, address) for address in asker.target.scraped[:MOST_ENGINES]))
    parts = [each for each in found if isinstance(each, Exposition)]
    for problem in found:
        if isinstance(problem, str):
            why.setdefault("metrics", problem)
    return together(parts) if parts and (some or len(parts) == len(found)) else None


async def _page(asker: Asker, address: str) -> Exposition | str:
    """Of one engine, or why there is none. An engine that is away must not use up the time of all probes."""
    try:
        async with asyncio.timeout(METRICS_S):
            text = await asker.get(address, METRICS_BYTES)
        return Exposition.parse(text.decode("utf-8", "replace"), address)
    except TimeoutError:
        return f"{address} does not answer within {METRICS_S:g} s"
    except (Unanswered, Unreadable) as error:
        return str(error)


async def _card(asker: Asker, why: dict[str, str]) -> dict[str, Any]:
    target = asker.target
    begins = f"lane {target.name!r} ({target.root}): "
    try:
        cards = (await asker.get_object("/v1/models")).get("data")
    except Unanswered as error:
        raise LaneSilent(f"{begins}{error}; {_remedy(error.status, bool(target.key))}") from None
    known = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []
    if not known:
        raise LaneSilent(f"{begins}/v1/models names no model; load one, or correct the lane's url")
    for card in known:
        if not target.model or card.get("id") == target.model:
            return card
    names = ", ".join(_said(card.get("id")) for card in known[:8])
    why["model"] = f"there is no {target.model!r} among its models ({names}); requests may be refused"
    return known[0] if len(known) == 1 else {}


def _remedy(status: int, has_key: bool) -> str:
    if status in (401, 403):
        return "it refuses the lane's key; correct it" if has_key else "set the lane's key (key_env)"
    if status == 503:
        return "it is still loading or overloaded; try again in a moment"
    if status:
        return "the lane's url must be that of a server with an OpenAI-compatible API"
    return "start the server, or correct the lane's url"


async def _optional(asker: Asker, path: str) -> dict[str, Any]:
    try:
        return await asker.get_object(path)
    except Unanswered:
        return {}


def _kind(owner: str, props: dict[str, Any], info: dict[str, Any], metrics: Exposition | None) -> str:
    if "vllm_config" in info:
        return "vllm"
    if "speculative_algorithm" in info or ("model_path" in info and "internal_states" in info):
        return "sglang"
    if "default_generation_settings" in props or "build_info" in props:
        return "llamacpp"
    owner = owner.lower().replace(".", "").replace("-", "")
    if owner in get_args(Kind) and owner != "openai":
        return owner
    return "" if metrics is None else metrics.kind


def _settled(wanted: str, found: str, why: dict[str, str]) -> Kind:
    kind: Kind = "openai"
    for each in get_args(Kind):
        if each == (wanted or found):
            kind = each
    if wanted and found and wanted != found:
        why["kind"] = f"it is configured as {wanted} and looks like {found}"
    elif not wanted and not found:
        why["kind"] = "no endpoint of vLLM, SGLang or llama.cpp answers"
    return kind


def _vllm(_: dict[str, Any], info: dict[str, Any], metrics: Exposition | None) -> dict[str, Any]:
    config = _part(info, "vllm_config")
    cache, said = _part(config, "cache_config"), dict[str, Any]()
    if config:
        drafts = config.get("speculative_config")
        said["speculation"] = _drafts(drafts, "method", "num_speculative_tokens")
        method = _said(drafts.get("rejection_sample_method")) if isinstance(drafts, dict) else ""
        if method not in ("", "standard", "block"):
            said["speculation"] += f", {method} acceptance"
        said["kv"] = _said(cache.get("cache_dtype")) or None
        said["prefix_cache"] = _flag(cache.get("enable_prefix_caching"))
    elif metrics is not None and metrics.kind:
        # the counters are there if and only if drafts are switched on
        said["speculation"] = "on" if metrics.tells_drafts else NO_DRAFTS
        said["kv"] = metrics.configured.get("cache_dtype")
        said["prefix_cache"] = _flag(metrics.configured.get("enable_prefix_caching"))
    return said


def _sglang(_: dict[str, Any], info: dict[str, Any], metrics: Exposition | None) -> dict[str, Any]:
    if not info:
        return {}
    radix = _flag(info.get("disable_radix_cache"))
    drafts = _drafts(info, "speculative_algorithm", "speculative_num_draft_tokens")
    if drafts != NO_DRAFTS:
        if _flag(info.get("speculative_use_rejection_sampling")):
            drafts += ", rejection sampling"
        for name in ("single", "acc"):
            threshold = number(info.get(f"speculative_accept_threshold_{name}"))
            if threshold is not None and threshold < 1.0:
                drafts += f", {name} threshold {threshold:g}"
    return {
        "version": info.get("version"),
        "window": number(info.get("context_length")),
        "speculation": drafts,
        "kv": _said(info.get("kv_cache_dtype")) or None,
        "prefix_cache": None if radix is None else not radix,
    }


def _llamacpp(props: dict[str, Any], _: dict[str, Any], metrics: Exposition | None) -> dict[str, Any]:
    settings = _part(props, "default_generation_settings")
    types = _part(settings, "params").get("speculative.types")
    return {
        "version": props.get("build_info"),
        "window": number(settings.get("n_ctx")),
        "speculation": _types(types),
        "kv": _pair(props.get("cache_type_k"), props.get("cache_type_v")),
    }


async def _llamacpp_more(asker: Asker, model: str, said: dict[str, Any]) -> dict[str, Any]:
    """A router tells the arguments of each model; slots tell whether there is a drafter."""
    for each in _dicts((await _optional(asker, "/models")).get("data")):
        arguments = _part(each, "status").get("args")
        if each.get("id") == model and isinstance(arguments, list):
            options = _options([str(argument) for argument in arguments])
            said["speculation"] = said.get("speculation") or _said(options.get("--spec-type")) or NO_DRAFTS
            said["kv"] = said.get("kv") or _pair(
                options.get("--cache-type-k", options.get("-ctk", "f16")),
                options.get("--cache-type-v", options.get("-ctv", "f16")),
            )
    if said.get("speculation") is None:
        query = f"?model={quote(model, safe='')}" if model else ""
        try:
            slots = _dicts(await asker.get_value(f"/slots{query}"))
        except Unanswered:
            slots = []
        for slot in slots[:1]:
            types = _types(_part(slot, "params").get("speculative.types"))
            has = _flag(slot.get("speculative"))
            said["speculation"] = types or {True: "on", False: NO_DRAFTS}.get(has)  # type: ignore[arg-type]
    return said


def _types(value: Any) -> str | None:
    """As `/props` and `/slots` tell them: `none` is what an idle server tells, also one that drafts."""
    types = _said(value)
    return None if types.lower() in ("", "none") else types


def _nothing(_props: dict[str, Any], _info: dict[str, Any], _metrics: Exposition | None) -> dict[str, Any]:
    return {}


def _drafts(config: Any, method: str, most: str) -> str:
    """`mtp, 3 tokens`; "none" where the method is missing."""
    name = _said(config.get(method)) if isinstance(config, Mapping) else _said(config)
    if not name or name.lower() in ("none", "null", "false"):
        return NO_DRAFTS
    tokens = number(config.get(most)) if isinstance(config, Mapping) else None
    return name if tokens is None else f"{name}, {int(tokens)} tokens"


def _window(card: Mapping[str, Any]) -> float | None:
    meta = _part(card, "meta")
    return number(meta.get("n_ctx")) or number(card.get("context_length"))


def _options(arguments: list[str]) -> dict[str, str]:
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return {name: value for name, value in pairs if name.startswith("-")}


def _pair(keys: Any, values: Any) -> str | None:
    keys, values = _said(keys), _said(values)
    if not keys and not values:
        return None
    return keys if keys == values else f"{keys or 'f16'}/{values or 'f16'}"


def _part(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def _said(value: Any) -> str:
    """A server's words, on one line and short."""
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else " " for char in value[:SAID])
