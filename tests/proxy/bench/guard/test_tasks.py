"""The guard's tasks are what they say: real requests, calls and texts, short and beyond 1,000 tokens."""

from __future__ import annotations

from collections import Counter

from engine.bench.workloads import conversations
from engine.engine import EMBEDDED
from engine.template import ChatTemplate
from engine.tokenizer import Tokenizer
from proxy.backends.prompt import Prompter
from proxy.bench.guard.tasks import CALLS, TEXTS, tasks
from proxy.conversation import PastCall


def test_the_same_conversations_give_the_same_tasks() -> None:
    assert tasks(conversations(), [1, 2]) == tasks(conversations(), [1, 2])


def test_calls_come_first_and_all_names_differ() -> None:
    found = tasks(conversations(), [1])
    assert [task.kind for task in found] == ["call"] * CALLS + ["text"] * TEXTS
    assert len({task.name for task in found}) == len(found)
    assert Counter("edit_file" in task.name for task in found[:7]) == {True: 7}


def test_a_conversation_becomes_the_canonical_request() -> None:
    request = tasks(conversations(), [1])[0].request
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[2].calls == (PastCall("call_0", "read_file", request.messages[2].calls[0].arguments),)
    assert request.messages[3].call_id == "call_0"
    assert {tool.name for tool in request.tools} == {"read_file", "edit_file", "run_tests"}


def test_drawn_tasks_keep_everything_but_how_tokens_are_drawn() -> None:
    task, text = (tasks(conversations(), [5])[at] for at in (0, -1))
    drawn = task.drawn(0.8, 3)
    assert (drawn.request.sampling.temperature, drawn.request.sampling.seed) == (0.8, 3)
    assert drawn.request.messages == task.request.messages
    assert drawn.name != task.name
    assert text.drawn(0.8, 3) == text
    assert text.request.sampling.logit_bias == ((5, -100.0),)


def test_the_prelude_takes_every_prompt_beyond_a_thousand_tokens() -> None:
    template = ChatTemplate.load(EMBEDDED)  # the template alone, without the model
    prompter = Prompter(
        lambda messages, tools: template.render(messages, tools or None, add_generation_prompt=True),
        Tokenizer.load(EMBEDDED).encode,
    )
    for prelude in (False, True):
        lengths = [
            len(prompter.tokens(t.request.messages, t.request.tools)) for t in tasks(conversations(), [], prelude)
        ]
        assert all((length > 1000) == prelude for length in lengths), lengths
        assert max(lengths) < 3000
