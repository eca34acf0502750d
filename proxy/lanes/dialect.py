"""What a lane is asked for: a request's body in the dialect of its server.

Must not: send a field that probing has not shown to be understood and that a server might refuse or ignore in silence,
or anything of a client that the canonical request does not hold.
Invariant: the body of two attempts at one request differs in nothing but the lane's dialect, the salt of its cache and
the text that it continues, so that a prefix stays a prefix.

`return_token_ids`, `cache_salt`, `continue_final_message`, `continuous_usage_stats`: vLLM and SGLang;
`timings_per_token`, `cache_prompt`, a trailing assistant message that is continued by itself: llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.conversation import ChatRequest, Message, Sampling, Tool
from proxy.lanes.capabilities import LaneCapabilities


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a request on a lane. prefill: text of the response that is there already. salt: of the prefix cache,
    "" = the server's own; fresh: nothing of a prefix may be taken over. limit: most tokens, None = the request's."""

    model: str
    capabilities: LaneCapabilities
    seed: int | None = None
    prefill: str = ""
    salt: str = ""
    fresh: bool = False
    limit: int | None = None


def body_for(request: ChatRequest, attempt: Attempt) -> dict[str, Any]:
    """Of `POST /v1/chat/completions`."""
    can, kind = attempt.capabilities, attempt.capabilities.kind
    body: dict[str, Any] = {"messages": [_message(m, kind != "openai") for m in request.messages], "stream": True}
    if attempt.model:
        body["model"] = attempt.model
    if can.usage:
        body["stream_options"] = {"include_usage": True}
        if kind == "vllm":
            body["stream_options"]["continuous_usage_stats"] = True
    if can.token_ids:
        body["return_token_ids"] = True
    if can.draft_statistics == "timings":
        body["timings_per_token"] = True
    if can.cache_salt and attempt.salt:
        body["cache_salt"] = attempt.salt
    if kind == "llamacpp" and attempt.fresh:
        body["cache_prompt"] = False
    limit = request.max_tokens if attempt.limit is None else attempt.limit
    if limit is not None:
        body["max_tokens"] = limit
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    body |= _sampling(request.sampling, attempt)
    body |= _tools(request)
    if attempt.prefill:
        body["messages"].append({"role": "assistant", "content": attempt.prefill})
        if kind != "openai":  # or the template opens `<think>` behind what was said already
            body["chat_template_kwargs"] = {"enable_thinking": False}
        if kind in ("vllm", "sglang"):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def counting_body(messages: tuple[Message, ...], tools: tuple[Tool, ...], model: str) -> dict[str, Any]:
    """Of `POST /tokenize` (vLLM) or `/apply-template` (llama.cpp)."""
    body: dict[str, Any] = {"messages": [_message(m, True) for m in messages], "add_generation_prompt": True}
    if model:
        body["model"] = model
    if tools:
        body["tools"] = [_tool(tool) for tool in tools]
    return body


_ARGUMENTS = json.JSONEncoder(ensure_ascii=False)
"""Made once: to make one takes longer than the arguments of most calls."""


def _message(message: Message, tells_thinking: bool) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    told: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking and tells_thinking:
        told |= {"reasoning_content": message.thinking, "reasoning": message.thinking}
    if message.calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _ARGUMENTS.encode(call.arguments)},
            }
            for call in message.calls
        ]
    return told


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": dict(tool.parameters)}
    if tool.description:
        function["description"] = tool.description
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _sampling(sampling: Sampling, attempt: Attempt) -> dict[str, Any]:
    kind = attempt.capabilities.kind
    told: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.top_p != 1:
        told["top_p"] = sampling.top_p
    if attempt.seed is not None:
        told["seed"] = attempt.seed
    if sampling.presence_penalty:
        told["presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty:
        told["frequency_penalty"] = sampling.frequency_penalty
    if sampling.logit_bias:
        told["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.top_k:
        told["top_k"] = sampling.top_k
    if sampling.min_p:
        told["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1:
        told["repeat_penalty" if kind == "llamacpp" else "repetition_penalty"] = sampling.repetition_penalty
    return told


def _tools(request: ChatRequest) -> dict[str, Any]:
    """Tools, and what is demanded of the response: it is the server's grammar that keeps it."""
    demands, told = request.demands, dict[str, Any]()
    if request.tools:
        told["tools"] = [_tool(tool) for tool in request.tools]
        if demands.only_tool:
            told["tool_choice"] = {"type": "function", "function": {"name": demands.only_tool}}
        elif demands.must_call:
            told["tool_choice"] = "required"
        if demands.most_calls == 1:
            told["parallel_tool_calls"] = False
    if demands.text_schema is not None:
        schema: Mapping[str, Any] = {"name": "response", "schema": dict(demands.text_schema)}
        told["response_format"] = {"type": "json_schema", "json_schema": schema}
    return told
