"""The requests that the guard is measured on: turns of an agent's repairs, and text that is drawn.

Must not: depend on chance, on what the guard does with them, or on the engine.
Invariant: the same conversations give the same tasks in the same order: calls first, then text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from proxy.conversation import ChatRequest, Message, PastCall, Sampling, Tool

CALLS, TEXTS = 20, 10
DRAWN_SEEDS, DRAWN_TOKENS = (100, 103, 101, 100), 96
"""The embedded model answers in a dozen words. Text that it draws may not end by itself or call a tool, so that there
is some to judge. With these seeds it does not write the tags of calls and prompts into its text, which is a trip by
right."""
DRAWN_TEXTS = len(DRAWN_SEEDS)
LONGEST = 320


@dataclass(frozen=True, slots=True)
class Task:
    """kind: what the model does in a sound engine."""

    name: str
    kind: Literal["call", "text"]
    request: ChatRequest

    def drawn(self, temperature: float, seed: int) -> Task:
        """The same task with its tokens drawn; one that is drawn already stays as it is."""
        if self.request.sampling.temperature > 0:
            return self
        sampling = replace(self.request.sampling, temperature=temperature, seed=seed)
        return replace(self, name=f"{self.name} at {temperature:g}", request=replace(self.request, sampling=sampling))


def tasks(data: Mapping[str, Any], banned: Sequence[int], prelude: bool = False) -> list[Task]:
    """CALLS turns that end in a tool call and TEXTS that are text.

    data: the conversations of the engine's benchmark. banned: ids of the tokens that end a turn or open a call.
    prelude: three other repairs come before each, so that the context is beyond 1,000 tokens.
    """
    tools = tuple(_tool(tool["function"]) for tool in data["tools"])
    repairs = [*data["agent"], *data["rewrite"]]
    calls: list[Task] = []
    texts: list[Task] = []
    for number, repair in enumerate(repairs):
        before: list[Any] = []
        if prelude:
            others = [repairs[(number + step) % len(repairs)]["messages"][1:] for step in (1, 2, 3)]
            before = [message for other in others for message in other]
        messages = [repair["messages"][0], *before, *repair["messages"][1:]]
        for at in range(1 + len(before), len(messages)):
            if messages[at]["role"] == "assistant":
                called = messages[at].get("tool_calls")
                what = called[0]["function"]["name"] if called else "answer"
                request = _request(messages[:at], tools)
                task = Task(f"{repair['name']}: {what}", "call" if called else "text", request)
                (calls if called else texts).append(task)
    answers = texts[: TEXTS - DRAWN_TEXTS]
    return [*_spread(calls, CALLS), *answers, *(_drawn(answers[i], i, banned) for i in range(DRAWN_TEXTS))]


def _spread(found: list[Task], count: int) -> list[Task]:
    """The long ones first: a fault has more to strike in them."""
    return sorted(found, key=lambda task: "edit_file" not in task.name)[:count]


def _drawn(task: Task, index: int, banned: Sequence[int]) -> Task:
    """Goes on where the answer would stand; the penalty keeps it from repeating itself."""
    sampling = Sampling(
        1.0, seed=DRAWN_SEEDS[index], frequency_penalty=0.6, logit_bias=tuple((id, -100.0) for id in banned)
    )
    request = replace(task.request, sampling=sampling, max_tokens=DRAWN_TOKENS)
    return Task(f"drawn text {index}", "text", request)


def _request(messages: Sequence[Mapping[str, Any]], tools: tuple[Tool, ...]) -> ChatRequest:
    return ChatRequest(
        "openai.chat", "bench", tuple(_message(message) for message in messages), tools, max_tokens=LONGEST
    )


def _message(message: Mapping[str, Any]) -> Message:
    made = [call["function"] for call in message.get("tool_calls") or ()]
    calls = tuple(PastCall(f"call_{i}", call["name"], call["arguments"]) for i, call in enumerate(made))
    answered = "call_0" if message["role"] == "tool" else ""
    return Message(message["role"], message["content"], calls=calls, call_id=answered)


def _tool(function: Mapping[str, Any]) -> Tool:
    return Tool(function["name"], function["description"], function["parameters"])
