"""What a scripted server tells about itself: models, health, version, metrics, settings; and its tokenizer.

Must not: answer what the real server has no page for. Invariant: names of metrics and fields are the real ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.upstreams.answers import prompted
from tests.upstreams.dialects import BUILD
from tests.upstreams.lanes import Counters, Lane
from tests.upstreams.replies import ids_of, text_of

if TYPE_CHECKING:
    from tests.upstreams.server import Upstream

Page = Callable[[web.Request], Awaitable[web.Response]]


def add_routes(app: web.Application, up: Upstream) -> None:
    async def models(request: web.Request) -> web.Response:
        return web.json_response(models_of(up))

    async def health(request: web.Request) -> web.Response:
        if not up.healthy:
            return web.json_response(up.dialect.error(503, "Loading model", "unavailable_error"), status=503)
        return web.json_response({"status": "ok"}) if up.kind == "llamacpp" else web.Response()

    async def metrics(request: web.Request) -> web.Response:
        if not up.has_metrics:
            if up.kind == "llamacpp":
                text = "This server does not support metrics endpoint. Start it with `--metrics`"
                return web.json_response(up.dialect.error(501, text, "not_supported_error"), status=501)
            raise web.HTTPNotFound
        text = WRITERS[up.kind](up, _only(up, request))
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": up.version})

    app.router.add_get("/v1/models", models)
    if up.kind != "openai":
        app.router.add_get("/health", health)
        app.router.add_get("/metrics", metrics)
        app.router.add_post("/tokenize", _tokenize(up))
        app.router.add_post("/detokenize", _detokenize(up))
    if up.kind == "vllm":
        app.router.add_get("/version", version)
        app.router.add_get("/ping", health)
    if up.kind == "vllm" and up.dev:
        app.router.add_get("/server_info", _vllm_server_info(up))
    if up.kind == "sglang":
        for path in ("/server_info", "/get_server_info"):
            app.router.add_get(path, _sglang_server_info(up))
        app.router.add_get("/model_info", _sglang_model_info(up))
        app.router.add_get("/get_model_info", _sglang_model_info(up))
    if up.kind == "llamacpp":
        app.router.add_get("/models", models)
        app.router.add_post("/apply-template", _apply_template(up))
        app.router.add_get("/props", _props(up))
        app.router.add_get("/slots", _slots(up))


def _only(up: Upstream, request: web.Request) -> Mapping[str, Counters]:
    """In llama.cpp's router mode `?model=` says whose numbers."""
    if up.kind != "llamacpp" or len(up.lanes) == 1:
        return up.counters
    lane = request.query.get("model", "")
    if lane not in up.lanes:
        raise web.HTTPBadRequest(text="model name is missing from the request")
    return {lane: up.counters[lane]}


def models_of(up: Upstream) -> dict[str, Any]:
    entries: list[dict[str, Any]]
    match up.kind:
        case "vllm":
            entries = [
                {"owned_by": "vllm", "root": name, "parent": None, "max_model_len": lane.window, "permission": []}
                for name, lane in up.lanes.items()
            ]
        case "sglang":
            entries = [
                {"owned_by": "sglang", "root": name, "parent": None, "max_model_len": lane.window}
                for name, lane in up.lanes.items()
            ]
        case "llamacpp":
            entries = [_llamacpp_model(name, lane, len(up.lanes) > 1) for name, lane in up.lanes.items()]
        case "openai":
            entries = [{"owned_by": "somebody"} for _ in up.lanes]
    head = ({"id": name, "object": "model", "created": 1_764_000_000} for name in up.lanes)
    return {"object": "list", "data": [one | more for one, more in zip(head, entries, strict=True)]}


def _llamacpp_model(name: str, lane: Lane, router: bool) -> dict[str, Any]:
    if router:
        arguments = ["llama-server", "--model", "/m/q.gguf", "--alias", name]
        if lane.speculation:
            arguments += ["--spec-type", lane.speculation]
        if lane.kv != "auto":
            arguments += ["--cache-type-k", lane.kv, "--cache-type-v", lane.kv]
        return {"owned_by": "llamacpp", "in_cache": True, "status": {"value": "loaded", "args": arguments}}
    meta = {"vocab_type": 2, "n_vocab": 2048, "n_ctx_train": lane.window, "n_embd": 256, "n_params": 5465472}
    return {"owned_by": "llamacpp", "meta": meta}


def _vllm_metrics(up: Upstream, counters: Mapping[str, Counters]) -> str:
    lines = []
    for name, c in counters.items():
        label = f'{{engine="0",model_name="{name}"}}'
        lines += [
            f"vllm:num_requests_running{label} {float(c.running)}",
            f"vllm:num_requests_waiting{label} 0.0",
            f"vllm:kv_cache_usage_perc{label} 0.0",
            f"vllm:prompt_tokens_total{label} {float(c.prompt_tokens)}",
            f"vllm:generation_tokens_total{label} {float(c.generated)}",
            f"vllm:prefix_cache_queries_total{label} {float(c.prompt_tokens)}",
            f"vllm:prefix_cache_hits_total{label} {float(c.cached_tokens)}",
            f"vllm:num_preemptions_total{label} 0.0",
        ]
        if up.lanes[name].speculation:
            lines += [
                f"vllm:spec_decode_num_drafts_total{label} {float(c.drafts)}",
                f"vllm:spec_decode_num_draft_tokens_total{label} {float(c.drafted)}",
                f"vllm:spec_decode_num_accepted_tokens_total{label} {float(c.accepted)}",
            ]
            for place in range(up.lanes[name].width - 1):
                at = f'{{engine="0",model_name="{name}",position="{place}"}}'
                lines.append(f"vllm:spec_decode_num_accepted_tokens_per_pos_total{at} {float(c.accepted > 0)}")
    return _typed(lines, {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"})


def _sglang_metrics(up: Upstream, counters: Mapping[str, Counters]) -> str:
    lines = []
    for name, c in counters.items():
        label = f'{{model_name="{name}",tp_rank="0"}}'
        lines += [
            f"sglang:num_running_reqs{label} {float(c.running)}",
            f"sglang:num_queue_reqs{label} 0.0",
            f"sglang:token_usage{label} 0.0",
            f"sglang:prompt_tokens_total{label} {float(c.prompt_tokens)}",
            f"sglang:generation_tokens_total{label} {float(c.generated)}",
            f"sglang:cached_tokens_total{label} {float(c.cached_tokens)}",
            f"sglang:cache_hit_rate{label} {c.cached_tokens / max(1, c.prompt_tokens)}",
        ]
        if up.lanes[name].speculation:
            lines += [
                f"sglang:spec_accept_length{label} {1 + c.accepted / max(1, c.drafts)}",
                f"sglang:spec_accept_rate{label} {c.accepted / max(1, c.drafted)}",
                f"sglang:spec_verify_calls_total{label} {float(c.drafts)}",
            ]
    gauges = {"num_running_reqs", "num_queue_reqs", "token_usage", "cache_hit_rate"}
    return _typed(lines, gauges | {"spec_accept_length", "spec_accept_rate"})


def _llamacpp_metrics(up: Upstream, counters: Mapping[str, Counters]) -> str:
    (c,) = counters.values()
    lines = [
        f"llamacpp:prompt_tokens_total {c.prompt_tokens - c.cached_tokens}",
        f"llamacpp:prompt_tokens_cached_total {c.cached_tokens}",
        f"llamacpp:tokens_predicted_total {c.generated}",
        f"llamacpp:n_decode_total {c.drafts}",
        f"llamacpp:requests_processing {c.running}",
        "llamacpp:requests_deferred 0",
        f"llamacpp:spec_decode_num_drafts_total {c.drafts}",
        f"llamacpp:spec_decode_num_draft_tokens_total {c.drafted}",
        f"llamacpp:spec_decode_num_accepted_tokens_total {c.accepted}",
    ]
    return _typed(lines, {"requests_processing", "requests_deferred"})


def _typed(lines: list[str], gauges: set[str]) -> str:
    text, told = [], set()
    for line in lines:
        name = line.partition("{")[0].partition(" ")[0]
        if name not in told:
            told.add(name)
            kind = "gauge" if name.partition(":")[2] in gauges else "counter"
            text += [f"# HELP {name} As the server counts it.", f"# TYPE {name} {kind}"]
        text.append(line)
    return "\n".join(text) + "\n"


WRITERS: Mapping[str, Callable[[Upstream, Mapping[str, Counters]], str]] = {
    "vllm": _vllm_metrics,
    "sglang": _sglang_metrics,
    "llamacpp": _llamacpp_metrics,
}


def _tokenize(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        body = await request.json()
        lane = up.lanes[up.lane_of(body.get("model")) or next(iter(up.lanes))]
        if up.kind == "llamacpp":
            return web.json_response({"tokens": list(ids_of(body.get("content", "")))})
        text = body.get("prompt")
        if text is None:
            text = "".join(str(message.get("content") or "") for message in body.get("messages", ()))
        tokens = list(ids_of(text))
        return web.json_response({"count": len(tokens), "max_model_len": lane.window, "tokens": tokens})

    return page


def _apply_template(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        body = await request.json()
        (lane, *_) = up.lanes.values()
        return web.json_response({"prompt": text_of(prompted(up, lane, next(iter(up.lanes)), body, 0).prompt_ids)})

    return page


def _detokenize(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        text = text_of((await request.json()).get("tokens", ()))
        return web.json_response({"content" if up.kind == "llamacpp" else "prompt": text})

    return page


def _vllm_server_info(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        name, lane = next(iter(up.lanes.items()))
        speculation = None
        if lane.speculation:
            speculation = {"method": lane.speculation, "num_speculative_tokens": lane.width - 1}
        if request.query.get("config_format") != "json":
            text = f"model={name!r}, speculative_config={speculation}, kv_cache_dtype={lane.kv}"
            return web.json_response({"vllm_config": text, "vllm_env": {}})
        config = {
            "model_config": {"model": name, "max_model_len": lane.window},
            "cache_config": {"cache_dtype": lane.kv, "enable_prefix_caching": up.caches, "block_size": 16},
            "speculative_config": speculation,
        }
        return web.json_response({"vllm_config": config, "vllm_env": {}, "system_env": {}})

    return page


def _sglang_server_info(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        name, lane = next(iter(up.lanes.items()))
        c = up.counters[name]
        state = {"memory_usage": {}, "last_gen_throughput": 0.0}
        if lane.speculation:
            state["avg_spec_accept_length"] = 1 + c.accepted / max(1, c.drafts)
        settings = {
            "model_path": name,
            "served_model_name": name,
            "context_length": lane.window,
            "kv_cache_dtype": lane.kv,
            "speculative_algorithm": lane.speculation,
            "speculative_num_draft_tokens": lane.width if lane.speculation else None,
            "disable_radix_cache": not up.caches,
            "version": up.version,
        }
        return web.json_response({**settings, "internal_states": [state]})

    return page


def _sglang_model_info(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        return web.json_response({"model_path": next(iter(up.lanes)), "is_generation": True})

    return page


def _of_router(up: Upstream, request: web.Request) -> str:
    """The lane whose page is asked for. Of a router without `?model=`, none has one."""
    if len(up.lanes) == 1:
        return next(iter(up.lanes))
    return request.query.get("model", "")


def _props(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        name = _of_router(up, request)
        if name not in up.lanes:
            told = {"role": "router", "build_info": BUILD, "max_instances": 4, "model_path": "none"}
            return web.json_response({**told, "default_generation_settings": {"params": None, "n_ctx": 0}})
        lane = up.lanes[name]
        # as the real one: these are the settings of no request, and do not tell of its drafter
        settings = {"n_ctx": lane.window, "params": {"n_predict": -1, "speculative.types": "none"}}
        return web.json_response(
            {
                "default_generation_settings": settings,
                "total_slots": 1,
                "model_alias": name,
                "model_path": "/m/q.gguf",
                "modalities": {"vision": False, "audio": False},
                "endpoint_slots": True,
                "endpoint_props": False,
                "endpoint_metrics": up.has_metrics,
                "chat_template": "{% for message in messages %}",
                "build_info": BUILD,
            }
        )

    return page


def _slots(up: Upstream) -> Page:
    async def page(request: web.Request) -> web.Response:
        name = _of_router(up, request)
        if name not in up.lanes:
            return web.json_response(up.dialect.error(400, "model name is missing from the request"), status=400)
        lane = up.lanes[name]
        running = up.counters[name].running > 0
        slot: dict[str, Any] = {"id": 0, "n_ctx": lane.window, "speculative": lane.speculation is not None}
        if running:
            types = {"speculative.types": lane.speculation or "none"}
            slot |= {"id_task": 1, "params": types, "next_token": [{"has_next_token": True}]}
        return web.json_response([{**slot, "is_processing": running}])

    return page
