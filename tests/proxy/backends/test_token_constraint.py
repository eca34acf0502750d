"""Demands of requests, enforced on a real model at temperatures at which it says anything at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from detectors.finding import Grade
from detectors.tool_schema import ToolSchemas
from detectors.watch import ReadCall, Watch
from engine.engine import EMBEDDED, Engine
from engine.sampler import SamplingParams
from engine.tokenizer import Tokenizer
from engine.turn import TurnOptions
from proxy.backends.errors import BadPrompt
from proxy.backends.token_constraint import constraint_for, demand_of
from proxy.conversation import ChatRequest, Demands, Message, Tool
from tests.engine.conftest import write_model

torch.set_num_threads(1)

STEP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "to": {"enum": ["up", "down", "größe"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 40},
        "items": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 2},
        "note": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]},
    },
    "required": ["to", "items"],
    "additionalProperties": False,
}
TOOLS = (Tool("step", "goes", STEP, strict=True), Tool("stop", "stops", {"additionalProperties": False}, strict=True))
REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),), TOOLS)
ANSWER = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["random", "embedded"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(write_model(tmp_path_factory.mktemp("tiny")) if request.param == "random" else EMBEDDED)


def respond(
    engine: Engine, request: ChatRequest, temperature: float, seed: int, drafter: str = "none", tokens: int = 160
) -> tuple[list[int], str, str, int]:
    """ids, text, end, replaced tokens."""
    constraint = constraint_for(request, engine.tokenizer, False)
    sampling = SamplingParams(temperature, seed=seed)
    prompt = engine.tokenizer.encode("<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n")
    turn = engine.open(prompt, TurnOptions(sampling, drafter, max_tokens=tokens, audit_every=0, constraint=constraint))
    for _ in turn.sequence.prefill():
        pass
    text, end, replaced = "", None, 0
    while end is None:
        step = turn.step()
        text += "".join(token.text for token in step.tokens) + step.tail
        end, replaced = step.end, replaced + step.filtered
        assert not step.dead_end
    ids = turn.generated
    engine.close(turn)
    return ids, text, end, replaced


@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.slow), 5.0])
def test_a_call_that_must_come_comes_and_is_valid(engine: Engine, temperature: float) -> None:
    request = replace(REQUEST, demands=Demands(must_call=True, most_calls=1))
    schemas = ToolSchemas.compile([(tool.name, tool.parameters) for tool in TOOLS])
    for seed in range(1 if temperature == 0 else 3):
        watch, calls = Watch(schemas, 1 << 20), list[ReadCall]()
        ids, text, end, replaced = respond(engine, request, temperature, seed)
        for said, finding in (watch.feed(0, 1, text), watch.finish("stop" if end == "stop" else "length")):
            calls += [each for each in said if isinstance(each, ReadCall)]
            assert finding is None or finding.grade is Grade.SUSPECT or end == "length"
        assert len(calls) == 1 or end == "length"
        assert all(call.violation is None or end == "length" for call in calls)
        assert replaced > 0 or temperature == 0
        if seed == 0:
            assert respond(engine, request, temperature, seed, "mtp+ngram")[0] == ids


def test_the_named_tool_is_called(engine: Engine) -> None:
    for name in ("step", "stop"):
        request = replace(REQUEST, demands=Demands(must_call=True, only_tool=name))
        assert f"<function={name}>" in respond(engine, request, 1.0, 3, tokens=60)[1]


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 3.0])
def test_a_text_that_must_be_json_is_that(engine: Engine, temperature: float) -> None:
    demands = Demands(text_schema=ANSWER, text_schema_at="response_format")
    for seed in range(3):
        _, text, end, _ = respond(engine, replace(REQUEST, tools=(), demands=demands), temperature, seed)
        if end == "length" and "<think>" in text and "</think>" not in text:
            continue  # nothing stops a model that only thinks
        assert end == "stop"
        answer = json.loads(text.split("</think>")[-1])
        assert list(answer) == ["ok"]


def test_free_text_is_left_alone(engine: Engine) -> None:
    free = respond(engine, replace(REQUEST, tools=()), 1.0, 5, tokens=60)
    assert constraint_for(replace(REQUEST, tools=()), engine.tokenizer, False) is None
    strict = respond(engine, REQUEST, 1.0, 5, tokens=60)
    if "<tool_call>" not in free[1]:
        assert (strict[0], strict[3]) == (free[0], 0)


def test_what_is_demanded_of_whom() -> None:
    loose = (replace(TOOLS[0], strict=False), replace(TOOLS[1], strict=False))
    assert demand_of(replace(REQUEST, tools=loose)) is None
    one = demand_of(replace(REQUEST, tools=loose, demands=Demands(most_calls=1)))
    assert one is not None
    assert (one.strict, one.most_calls) == (frozenset(), 1)
    must = demand_of(replace(REQUEST, tools=loose, demands=Demands(must_call=True, only_tool="stop")))
    assert must is not None
    assert (must.strict, must.names) == ({"step", "stop"}, ("stop",))


def test_a_schema_that_is_none_is_refused_by_its_field() -> None:
    demands = Demands(text_schema={"type": 7}, text_schema_at="text.format.schema")
    with pytest.raises(BadPrompt, match=r"^text\.format\.schema: ") as caught:
        demand_of(replace(REQUEST, demands=demands))
    assert caught.value.param == "text.format.schema"


def test_looking_at_first_bytes_changes_nothing() -> None:
    """A search through the vocabulary skips tokens by their first byte; each of them is refused without that too."""
    tokenizer = Tokenizer.load(EMBEDDED)
    call = "<tool_call>\n<function=step>\n<parameter=to>\ngr\u00f6\u00dfe\n</parameter>\n<parameter=count>\n3"
    call += '\n</parameter>\n<parameter=items>\n["x", "y"]\n</parameter>\n</function>\n</tool_call>'
    one = constraint_for(replace(REQUEST, demands=Demands(must_call=True, most_calls=1)), tokenizer, False)
    assert one is not None
    for index, token in enumerate(tokenizer.encode(call)):
        if index % 6 == 0:
            searching = one.clone()
            found = [searching.allows(each) for each in range(tokenizer.vocab_size)]
            assert found == [one.clone().allows(each) for each in range(tokenizer.vocab_size)]
        assert one.allows(token)
        one.advance(token)
