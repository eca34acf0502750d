"""The OpenAPI 3.1 document of `GET /openapi.json`: requests from the models that parse them, responses as sent.

Must not: promise more than the parsers do. What they check beyond the shape (an image, an unknown tool) is a 400.
Invariant: a request field is in the document if and only if a wire model has it, and every route is.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import BaseModel

from proxy import errors
from proxy.versions import own_version
from proxy.wire import anthropic_parse, openai_chat_parse, openai_responses_parse

BODIES: dict[str, tuple[str, type[BaseModel], str]] = {
    "/v1/chat/completions": ("ChatCompletion", openai_chat_parse.Body, "OpenAI Chat Completions"),
    "/v1/responses": ("Response", openai_responses_parse.Body, "OpenAI Responses"),
    "/v1/messages": ("Message", anthropic_parse.Body, "Anthropic Messages"),
    "/v1/messages/count_tokens": ("MessageCount", anthropic_parse.Body, "Tokens of the prompt that a message makes"),
}
"""path -> prefix of its models' names, model of the body, summary."""
GETS = {
    "/v1/models": "What is served",
    "/v1/models/{model}": "One of them",
    "/health": "The process lives",
    "/ready": "Whether requests can be served, and how",
    "/metrics": "For Prometheus",
    "/version": "Of specguard",
    "/openapi.json": "This document",
    "/": "What there is",
}
JSON = "application/json"
SEEN = (
    "Fields beyond these are accepted. Those that ask for something that is not done here are refused; those that are "
    "harmless hints are named in the header `x-specguard-ignored`."
)
HEADERS = {
    "x-request-id": "as the client chose it, or a new one",
    "x-specguard-mode": "decode mode that the response starts in, such as `mtp+ngram/full`",
    "x-specguard-mode-reason": "why it is a safer one than was asked for",
    "x-specguard-ignored": "fields of the request that had no effect, with commas between them",
    "x-specguard-thinking-restored": "how many past turns got back the thinking that the client had dropped",
    "x-specguard-policy": "name of the policy that holds for this request, where it is not the server's",
    "x-specguard-scrubbed": "characters of loops that were taken out of the history",
}
_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_TIMINGS = {"type": "object", "properties": {name: _COUNT for name in ("draft_n", "draft_n_accepted")}}
RESULTS: dict[str, dict[str, Any]] = {
    "ChatCompletionResult": {"object": {"const": "chat.completion"}, "choices": {"type": "array", "minItems": 1}},
    "ResponseResult": {"object": {"const": "response"}, "output": {"type": "array"}},
    "MessageResult": {"type": {"const": "message"}, "role": {"const": "assistant"}, "content": {"type": "array"}},
}


@cache
def document() -> dict[str, Any]:
    """The whole; callers must not change it."""
    schemas: dict[str, Any] = {
        "OpenAIError": _object(error=_object(message=_TEXT, type=_TEXT, param={}, code={})),
        "AnthropicError": _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT), request_id=_TEXT),
        "TokenCount": _object(input_tokens=_COUNT),
        "ServerSentEvent": _object(data=_TEXT) | {"description": "One of the stream; `data` is JSON, or [DONE]"},
        "Anything": {"type": "object"},
    }
    for name, fields in RESULTS.items():
        schemas[name] = _object(id=_TEXT, model=_TEXT, usage={"type": "object"}, timings=_TIMINGS, **fields)
    paths: dict[str, Any] = {path: {"post": _post(path, schemas)} for path in BODIES}
    for path, summary in GETS.items():
        paths[path] = {"get": _get(path, summary)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "specguard", "version": own_version(), "description": SEEN},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


@cache
def encoded() -> bytes:
    """As JSON; it has bounds beyond 64 bits, which orjson does not write."""
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


def _post(path: str, schemas: dict[str, Any]) -> dict[str, Any]:
    prefix, model, summary = BODIES[path]
    schema = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
    for name, part in schema.pop("$defs", {}).items():
        schemas[f"{prefix}{name}"] = part
    schemas[f"{prefix}Body"] = schema
    counts = path.endswith("/count_tokens")
    result = {JSON: {"schema": _ref("TokenCount" if counts else f"{prefix}Result")}}
    if not counts:
        result["text/event-stream"] = {"schema": _ref("ServerSentEvent")}
    anthropic = path.startswith("/v1/messages")
    headers = {name: {"description": text, "schema": _TEXT} for name, text in HEADERS.items()}
    if counts:
        headers = {name: headers[name] for name in ("x-request-id", "x-specguard-ignored")}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {JSON: {"schema": _ref(f"{prefix}Body")}}},
        "responses": {"200": {"description": "The response", "content": result, "headers": headers}}
        | _refusals("AnthropicError" if anthropic else "OpenAIError", anthropic),
    }


def _get(path: str, summary: str) -> dict[str, Any]:
    kind = "text/plain" if path == "/metrics" else JSON
    found: dict[str, Any] = {"schema": _TEXT if path == "/metrics" else _ref("Anything")}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: found}}} | _refusals("OpenAIError", False),
    }
    if path == "/ready":
        operation["responses"]["503"] = {"description": "Not now", "content": {kind: found}}
    if "{model}" in path:
        operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]
    return operation


def _refusals(shape: str, anthropic: bool) -> dict[str, Any]:
    """One for each status, with the kinds of error that it stands for."""
    kinds: dict[int, list[str]] = {}
    for name, kind in errors.KINDS.items():
        kinds.setdefault(kind.anthropic[0] if anthropic else kind.status, []).append(name.replace("_", " "))
    content = {JSON: {"schema": _ref(shape)}}
    return {
        str(status): {"description": ", ".join(names), "content": content} for status, names in sorted(kinds.items())
    }


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
