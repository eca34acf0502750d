"""A call is valid only if a client could act on it, usable only if the edit could be made; prompts are long."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.bench.kv import calls
from engine.bench.kv.calls import (
    Asked,
    Calls,
    asked_edits,
    calls_table,
    is_usable_edit,
    is_valid_call,
    measure_calls,
)
from engine.bench.workloads import REPLY, Prompt, conversations, encode
from engine.codecs.spec import FULL, SPECS
from engine.engine import Engine
from engine.sampler import SamplingParams

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


def edit(path: str, old: str, new: str) -> str:
    given = {"path": path, "old_string": old, "new_string": new}
    body = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in given.items())
    return call(body, "edit_file")


PROMPT = Prompt("one", (1, 2), SamplingParams(), 8)
ASKED = Asked(100, PROMPT, "a.py", "def f(x):\n    return x\n\nx = 1\n")


@pytest.mark.parametrize(
    ("reply", "usable"),
    [
        (edit("a.py", "def f(x):\n    return x", "def f(x):\n    return -x"), True),
        (edit("b.py", "def f(x):\n    return x", "def f(x):\n    return -x"), False),
        (edit("a.py", "def f(y):\n    return y", "def f(x):\n    return -x"), False),
        (edit("a.py", "x", "y"), False),
        (edit("a.py", "x = 1", "x = 1"), False),
        (call(PATH), False),
    ],
    ids=["usable", "another file", "not in it", "in it more than once", "changes nothing", "another tool"],
)
def test_what_a_usable_edit_is(reply: str, usable: bool) -> None:
    assert is_usable_edit(reply, ASKED) == usable


@pytest.mark.parametrize("context", calls.CONTEXTS)
def test_prompts_are_as_long_as_they_say(embedded: Engine, context: int) -> None:
    """And end where the model has read the file that it is asked to edit, with room for its reply."""
    asked = asked_edits(embedded, context)
    room = min(context, embedded.model.config.max_context - REPLY)
    assert len({a.prompt.tokens for a in asked}) == len(asked) == 7
    assert asked[:1] == asked_edits(embedded, context, 1)
    assert asked[0].prompt.tokens != asked_edits(embedded, context, 1, seed=1)[0].prompt.tokens
    for a in asked:
        text = embedded.tokenizer.decode(list(a.prompt.tokens))
        # one more file, of 300 tokens at most, would not have fitted
        assert room - 300 < len(a.prompt.tokens) <= room
        assert a.path in text[: text.index(a.content)]
        assert a.content.count("def ") >= {640: 1, 1024: 5, 4096: 40}[context]


def test_the_fault_stands_last_and_nothing_before_it_is_faulty(embedded: Engine) -> None:
    """The recorded edit is usable in every prompt, and no other task's is."""
    recorded = [entry["messages"] for key in ("agent", "rewrite") for entry in conversations()[key]]
    given = [m[calls._edit_at(m)]["tool_calls"][0]["function"]["arguments"] for m in recorded]
    for number, a in enumerate(asked_edits(embedded, 1024)):
        for task, arguments in enumerate(given):
            reply = edit(a.path, arguments["old_string"], arguments["new_string"])
            assert is_usable_edit(reply, a) == (task == number)


def test_what_is_counted(embedded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reply of `full` makes no call and counts for nobody; a codec loses what it breaks, and no other."""
    right = edit("a.py", "x = 1", "x = 2")
    other = edit("a.py", "x = 3", "x = 2")

    def replies(engine: Engine, prompt: Prompt, codec: str, seeds: Sequence[int]) -> list[str]:
        third = {"k3v3": right.removesuffix("</tool_call>"), "k4v2": other}.get(codec, right)
        return [right, "no call" if codec == FULL else right, third]

    monkeypatch.setattr(calls, "_replies", replies)
    found = {c.codec: c for c in measure_calls(embedded, [ASKED])}
    assert found[FULL] == Calls(100, FULL, 2, 2, 2, 2, 1.0)
    assert [(c.replies, c.valid, c.usable, c.same) for c in found.values()] == [
        (2, 2, 2, 2),
        (2, 2, 2, 2),
        (2, 2, 2, 2),
        (2, 2, 2, 2),
        (2, 2, 1, 1),
        (2, 1, 1, 1),
    ]
    assert found["k4v4"].shared == 1.0 > found["k3v3"].shared > found["k4v2"].shared > 0.5
    assert [row[1] for row in calls_table(list(found.values())).rows] == [FULL, *SPECS]


def test_calls_of_the_embedded_model(embedded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bits change nothing in a short greedy edit; and a sampled reply is drawn by its seed."""
    monkeypatch.setattr(calls, "SPECS", {"k8v8": SPECS["k8v8"]})
    asked = asked_edits(embedded, 640, 1)
    found = {c.codec: c for c in measure_calls(embedded, asked, (1,))}
    assert found[FULL].replies == found[FULL].valid == found["k8v8"].valid >= 1
    # an edit leaves little to chance
    short = Prompt("open", encode(embedded, [{"role": "user", "content": "hello"}]), SamplingParams(), 24)
    first, second, again = (calls._replies(embedded, short, FULL, seeds) for seeds in ((5, 6), (7,), (5,)))
    assert first[1] != first[2]
    assert first[:2] == again
    assert first[0] == second[0]
