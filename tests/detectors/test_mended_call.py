"""A refused call is mended only where its end or its wrapping is wrong, and is valid as a whole afterwards."""

from __future__ import annotations

import json

import pytest

from detectors.mended_call import mend_call
from detectors.tool_schema import ToolSchemas
from tests.proxy.scripted import call_text

PLAN = {
    "properties": {
        "steps": {"type": "array", "items": {"type": "string"}},
        "note": {"type": "string"},
        "either": {"type": ["string", "array"]},
    },
    "required": ["steps"],
    "additionalProperties": False,
}
SCHEMAS = ToolSchemas.compile([("plan", PLAN)])


def body(steps: str, **others: str) -> str:
    return call_text("plan", steps=steps, **others).removeprefix("<tool_call>").removesuffix("</tool_call>")


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (body('["a", "b",]'), ("trailing comma",)),
        (body('["a", "b"'), ("missing closers",)),
        (body('```json\n["a", "b"]\n```'), ("code fence",)),
        (body('```json\n["a", "b",\n```'), ("code fence", "missing closers")),
        (body('["a", "b"]').replace("</function>", ""), ("missing closers",)),
        ("```xml\n" + body('["a", "b"]').strip() + "\n```", ("code fence",)),
    ],
)
def test_mended(broken: str, mended: tuple[str, ...]) -> None:
    call = mend_call(broken, SCHEMAS)
    assert call is not None
    assert (call.name, call.before, call.mended) == ("plan", broken, mended)
    assert json.loads(call.arguments) == {"steps": ["a", "b"]}


@pytest.mark.parametrize(
    "broken",
    [
        body('["a", "b"]'),  # nothing to mend
        body('["a", 1,]'),  # still invalid
        body('["a", "b"]').replace("=plan", "=plans").replace("</function>", ""),
        body('["a", "b'),  # a string that was not ended
        body('["a", "b"]').replace("parameter=steps", "parameter=stepz") + "x",
        body('["a"]').replace("</parameter>\n</function>", ""),
        body('["a"]', note="x").replace("</parameter>\n</function>", "</function>"),
        body('["a"]', note="x").replace("</parameter>\n</function>", "</param"),
        body('["a"]', note="x").replace("</function>", "</func"),
        "```\nno call\n```",
        "",
    ],
)
def test_not_mended(broken: str) -> None:
    assert mend_call(broken, SCHEMAS) is None


def test_text_stays_as_it_is() -> None:
    assert mend_call(body("[]", note="```\n[1,]\n```", either="[1,]"), SCHEMAS) is None
    call = mend_call(body('["a",]', note="```\n[1,]\n```", either="[1,]"), SCHEMAS)
    assert call is not None
    assert json.loads(call.arguments) == {"steps": ["a"], "note": "```\n[1,]\n```", "either": "[1,]"}
