"""What the template gets, and where conversations of one agent branch off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from proxy.backends.prompt import MAX_HEADS, Prompter, as_function, as_template
from proxy.conversation import Message, PastCall, Tool

TOOL = Tool("read", "Show.", MappingProxyType({"type": "object", "properties": {"path": {"type": "string"}}}))


class Bytes:
    """A template of one line per message and a tokenizer of one token per byte; counts the renderings."""

    def __init__(self) -> None:
        self.rendered = 0

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        self.rendered += 1
        names = ",".join(t["function"]["name"] for t in tools)
        return f"tools:{names}\n" + "".join(f"{m['role']}:{m['content']}\n" for m in messages)

    def prompter(self) -> Prompter:
        return Prompter(self.render, lambda text: list(text.encode()))


def test_the_branch_is_where_the_question_begins() -> None:
    template = Bytes()
    prompter = template.prompter()
    messages = (Message("system", "You repair code."), Message("user", "Repair this."))
    prompt = prompter.tokens(messages, (TOOL,))
    branch = prompter.branch(messages, (TOOL,), prompt)
    assert bytes(prompt[:branch]) == b"tools:read\nsystem:You repair code.\nuser:"


def test_one_head_is_rendered_once() -> None:
    template = Bytes()
    prompter = template.prompter()
    for question in ("one", "two", "three"):
        messages = (Message("system", "S" * 40), Message("user", question))
        assert prompter.branch(messages, (), prompter.tokens(messages, ())) == 7 + 48 + 5
    assert template.rendered == 4
    other = (Message("system", "T"), Message("user", "one"))
    assert prompter.branch(other, (), prompter.tokens(other, ())) == 7 + 9 + 5


def test_a_head_alone_and_no_head_at_all() -> None:
    prompter = Bytes().prompter()
    assert prompter.branch((Message("user", "x"),), (), [1, 2, 3]) == 0
    only = (Message("system", "S" * 40),)
    prompt = prompter.tokens(only, ())
    assert prompter.branch(only, (), prompt) <= len(prompt)
    # remembered from a longer prompt, asked for a shorter one
    assert prompter.branch(only, (), prompt[:3]) == 3


def test_heads_are_remembered_within_bounds() -> None:
    prompter = Bytes().prompter()
    for index in range(MAX_HEADS + 10):
        messages = (Message("system", str(index)), Message("user", "q"))
        prompter.branch(messages, (), prompter.tokens(messages, ()))
    assert len(prompter._heads) == MAX_HEADS


def test_messages_and_tools_are_plain_for_the_template() -> None:
    call = PastCall("c1", "read", {"path": "a"})
    assert as_template(Message("assistant", "hm", thinking="why", calls=(call,))) == {
        "role": "assistant",
        "content": "hm",
        "reasoning_content": "why",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "read", "arguments": {"path": "a"}}}],
    }
    assert as_template(Message("tool", "text", call_id="c1"))["tool_call_id"] == "c1"
    parameters = as_function(TOOL)["function"]["parameters"]
    assert type(parameters) is dict
    assert parameters == dict(TOOL.parameters)
