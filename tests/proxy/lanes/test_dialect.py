"""What a lane is asked for in each dialect, and nothing that it is not known to understand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.conversation import ChatRequest, Demands, Message, PastCall, Sampling, Tool
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.dialect import Attempt, body_for, counting_body
from tests.proxy.lanes.pool import FULL
from tests.upstreams.dialects import KINDS, Kind

REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),))
LS = Tool("ls", "lists", {"type": "object"}, strict=True)


def body(kind: Kind, request: ChatRequest = REQUEST, **attempt: Any) -> dict[str, Any]:
    return body_for(request, Attempt("q", FULL[kind], **attempt))


def test_nothing_beyond_the_standard_is_asked_of_a_server_of_which_nothing_is_known() -> None:
    assert body_for(REQUEST, Attempt("", LaneCapabilities())) == {
        "messages": [{"role": "user", "content": "go"}],
        "stream": True,
        "temperature": 0.0,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_its_capability(kind: Kind) -> None:
    found = body(kind, salt="s", fresh=True)
    assert ("return_token_ids" in found) == (kind in ("vllm", "sglang"))
    assert ("cache_salt" in found) == (kind in ("vllm", "sglang"))
    assert (found.get("cache_prompt") is False) == (kind == "llamacpp")
    assert ("timings_per_token" in found) == (kind == "llamacpp")
    assert found["stream_options"]["include_usage"]
    assert ("continuous_usage_stats" in found["stream_options"]) == (kind == "vllm")
    assert found["model"] == "q"


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_continued_in_each_servers_way(kind: Kind) -> None:
    found = body(kind, prefill="I look")
    assert found["messages"][-1] == {"role": "assistant", "content": "I look"}
    assert (found.get("continue_final_message"), found.get("add_generation_prompt")) == (
        (True, False) if kind in ("vllm", "sglang") else (None, None)
    )
    assert ("chat_template_kwargs" in found) == (kind != "openai")
    assert "continue_final_message" not in body(kind)


def test_two_attempts_differ_in_salt_and_prefill_alone() -> None:
    first, second = body("vllm", seed=3), body("vllm", seed=3, salt="x", fresh=True, prefill="so")
    assert second["messages"][:-1] == first["messages"]
    assert {key for key in second if second[key] != first.get(key)} == {
        "messages", "cache_salt", "chat_template_kwargs", "continue_final_message", "add_generation_prompt",
    }  # fmt: skip


def test_limits_stops_and_sampling() -> None:
    sampling = Sampling(0.7, 0.9, 20, 0.05, None, 1.1, 0.5, 0.25, ((7, -1.0),))
    request = replace(REQUEST, sampling=sampling, max_tokens=9, stop=("END",), logprobs=3)
    found = body("vllm", request, seed=5)
    assert {key: found[key] for key in ("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty")} == {
        "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "seed": 5, "repetition_penalty": 1.1,
    }  # fmt: skip
    assert (found["presence_penalty"], found["frequency_penalty"], found["logit_bias"]) == (0.5, 0.25, {"7": -1.0})
    assert (found["max_tokens"], found["stop"], found["logprobs"], found["top_logprobs"]) == (9, ["END"], True, 3)
    assert body("vllm", request, limit=4)["max_tokens"] == 4
    assert body("llamacpp", request)["repeat_penalty"] == 1.1


def test_tools_and_demands() -> None:
    request = replace(REQUEST, tools=(LS,), demands=Demands(most_calls=1))
    found = body("vllm", request)
    assert found["tools"][0]["function"] == {
        "name": "ls", "description": "lists", "parameters": {"type": "object"}, "strict": True,
    }  # fmt: skip
    assert found["parallel_tool_calls"] is False
    assert "tool_choice" not in found
    assert body("vllm", replace(request, demands=Demands(True)))["tool_choice"] == "required"
    named = body("vllm", replace(request, demands=Demands(True, "ls")))["tool_choice"]
    assert named == {"type": "function", "function": {"name": "ls"}}
    shaped = body("vllm", replace(REQUEST, demands=Demands(text_schema={"type": "object"})))["response_format"]
    assert shaped["json_schema"]["schema"] == {"type": "object"}


def test_past_turns() -> None:
    call = PastCall("c1", "ls", {"path": "é"})
    turns = (Message("assistant", "so", "hm", (call,)), Message("tool", "a b", call_id="c1"))
    found = body("vllm", replace(REQUEST, messages=turns))["messages"]
    assert found[0]["reasoning_content"] == found[0]["reasoning"] == "hm"
    assert found[0]["tool_calls"][0] == {
        "id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "é"}'},
    }  # fmt: skip
    assert found[1] == {"role": "tool", "tool_call_id": "c1", "content": "a b"}
    assert "reasoning" not in body("openai", replace(REQUEST, messages=turns))["messages"][0]


def test_what_is_counted() -> None:
    found = counting_body(REQUEST.messages, (LS,), "q")
    assert (found["model"], found["tools"][0]["function"]["name"], found["add_generation_prompt"]) == ("q", "ls", True)
