"""Leaked calls are found; talk about markup is not taken for one."""

from __future__ import annotations

import pytest

from detectors.channels import Piece
from detectors.finding import Finding
from detectors.leaked_markup import LeakedMarkup
from detectors.tool_schema import ToolSchemas

SCHEMAS = ToolSchemas.compile([("ls", {})])
LEAK = "<function=ls>\n<parameter=path>\nsrc\n</parameter>\n</function>\n"


def found(text: str, size: int) -> list[Finding]:
    detector = LeakedMarkup(SCHEMAS)
    pieces = [Piece("text", text[i : i + size], i) for i in range(0, len(text), size)]
    return [finding for piece in pieces if (finding := detector.feed(piece)) is not None]


@pytest.mark.parametrize(
    "text", [LEAK, f"I look.\n\n{LEAK}", "x\n<function=ls>\n</function>\n", f"```\na\n```\n{LEAK}"]
)
def test_a_leaked_call_is_found_once(text: str) -> None:
    for size in (1, 3, 1000):
        findings = found(text, size)
        assert [(f.detector, f.channel) for f in findings] == [("tool.leak", "text")]
    at = text.index("<function")
    end = min(i for i in (text.find(">", at + 14), text.find("</function>", at) + 10) if i > 0)
    assert (found(text, 1)[0].began, found(text, 1)[0].position) == (at, end)


@pytest.mark.parametrize(
    "text",
    [
        "Write `<function=ls>` and `<parameter=path>`.\n",
        f"```\n{LEAK}```\n",
        LEAK.replace("ls", "other"),
        "<function=ls>\nis a line\n<parameter=path>\n",
        " <function=ls>\n<parameter=path>\n",
        "<function=ls> does\n<parameter=path>\n",
        "<parameter=path>\n</function>\n",
    ],
)
def test_talk_about_markup_is_no_call(text: str) -> None:
    for size in (1, 4, 1000):
        assert found(text, size) == []


def test_another_channel_comes_between() -> None:
    detector = LeakedMarkup(SCHEMAS)
    detector.feed(Piece("text", "<function=ls>\n", 0))
    detector.reset()
    assert detector.feed(Piece("text", "<parameter=path>\n", 1)) is None
