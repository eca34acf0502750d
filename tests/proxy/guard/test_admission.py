"""Requests are admitted, or refused by the name of the field that asks for too much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.backends.base import Capabilities
from proxy.backends.errors import BadPrompt
from proxy.conversation import ChatRequest, Demands, Message, Tool
from proxy.guard.admission import admit

REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),), (Tool("ls"),))
ABLE = Capabilities(True, True, True, True, "bitwise", constraints=True)
PLAIN = replace(ABLE, logprobs=False, constraints=False)


def test_what_a_backend_can_do_is_admitted() -> None:
    asked = replace(REQUEST, logprobs=2, demands=Demands(must_call=True))
    assert admit(asked, ABLE).parameters("ls") == {}
    assert admit(REQUEST, PLAIN).parameters("rm") is None


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (replace(REQUEST, logprobs=0), "logprobs"),
        (replace(REQUEST, demands=Demands(must_call=True)), "tool_choice"),
        (replace(REQUEST, demands=Demands(text_schema={}, text_schema_at="text.format")), "text.format"),
    ],
)
def test_what_it_cannot_is_refused(asked: ChatRequest, field: str) -> None:
    with pytest.raises(BadPrompt) as caught:
        admit(asked, PLAIN)
    assert caught.value.param == field
    assert str(caught.value).startswith(f"{field}: ")


def test_a_bad_schema_is_refused() -> None:
    with pytest.raises(BadPrompt, match="'ls'"):
        admit(replace(REQUEST, tools=(Tool("ls", parameters={"type": 7}),)), ABLE)
