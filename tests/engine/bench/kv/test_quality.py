"""Divergence falls with bits, and a call is valid only if a client could act on it."""

from __future__ import annotations

import pytest

from engine.bench.kv.contexts import stretched_model
from engine.bench.kv.quality import (
    Calls,
    calls_table,
    divergence_table,
    is_valid_call,
    measure_calls,
    measure_divergence,
    random_text,
)
from engine.bench.workloads import prompts
from engine.engine import Engine

TOOLS = {"read": {"parameters": {"properties": {"path": {}, "limit": {}}, "required": ["path"]}}}


def call(body: str, name: str = "read") -> str:
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


PATH = "<parameter=path>\na.py\n</parameter>\n"


@pytest.mark.parametrize(
    ("reply", "valid"),
    [
        ("I look. " + call(PATH), True),
        (call(PATH + "<parameter=limit>\n3\n</parameter>\n"), True),
        (call("<parameter=limit>\n3\n</parameter>\n"), False),
        (call(PATH + PATH), False),
        (call(PATH + "<parameter=other>\n3\n</parameter>\n"), False),
        (call(PATH, name="write"), False),
        ("<tool_call>" + call(PATH), False),
        (call(PATH).removesuffix("</tool_call>"), False),
        ("plain text", False),
    ],
)
def test_what_a_valid_call_is(reply: str, valid: bool) -> None:
    assert is_valid_call(reply, TOOLS) == valid


def test_more_bits_diverge_less() -> None:
    import torch

    model = stretched_model(None, 512, "cpu", torch.float32)
    found = {d.codec: d for d in measure_divergence(model, "embedded", random_text(model, 512))}
    assert found["k8v8"].kl < found["k8v4"].kl < found["k4v4"].kl < found["k4v2"].kl
    assert found["k4v4"].kl < found["k3v3"].kl
    assert found["k8v8"].top1 > 0.98
    assert len(divergence_table(list(found.values())).rows) == 5


def test_calls_of_the_embedded_model(embedded: Engine) -> None:
    found = measure_calls(embedded, prompts(embedded, "agent", True)[:1])
    assert found[0] == Calls("full", 1, 1, 1)
    assert {c.codec: c.valid for c in found}["k8v8"] == 1
    assert len(calls_table(found).rows) == 6
