"""The bare tag of a call in a text: found however it is cut, and not where it is talked about."""

from __future__ import annotations

import pytest

from detectors.channels import Piece
from detectors.finding import Finding
from detectors.leaked_tags import LeakedTags
from detectors.tool_schema import ToolSchemas

SCHEMAS = ToolSchemas.compile([("ls", {"properties": {"path": {"type": "string"}}})])


def found(*pieces: str, schemas: ToolSchemas = SCHEMAS) -> list[Finding]:
    watch = LeakedTags(schemas)
    fed = (watch.feed(Piece("text", piece, at)) for at, piece in enumerate(pieces))
    return [finding for finding in fed if finding is not None]


@pytest.mark.parametrize(
    ("pieces", "began", "position"),
    [
        (["so <tool_call>"], 0, 0),
        (["so ", "<tool_call>", "{"], 1, 1),
        (["so ", "<", "tool_", "call", ">"], 1, 4),
        (["<<tool_call>"], 0, 0),
        (["<tool_<tool_call>"], 0, 0),
        (["`x` ", "<tool_call>"], 1, 1),
        (["```\ncode\n```\n", "<tool_call>"], 1, 1),
    ],
)
def test_a_tag_is_found(pieces: list[str], began: int, position: int) -> None:
    (finding,) = found(*pieces)
    assert (finding.detector, finding.began, finding.position) == ("tool.leak", began, position)


@pytest.mark.parametrize(
    "pieces",
    [
        ["the `<tool_call>` tag"],
        ["the `", "<tool_call>", "` tag"],
        ['"<tool_call>"'],
        ["```\n", "<tool_call>\n", "```"],
        ["<tool_calls>"],
        ["< tool_call>"],
    ],
)
def test_talk_about_it_is_none(pieces: list[str]) -> None:
    assert found(*pieces) == []


def test_without_tools_it_is_talk() -> None:
    assert found("<tool_call>", schemas=ToolSchemas.compile([])) == []


def test_a_call_without_its_tag_is_found_as_before() -> None:
    (finding,) = found("<function=ls>\n", "<parameter=path>")
    assert (finding.began, finding.position) == (0, 1)


def test_another_channel_comes_between() -> None:
    watch = LeakedTags(SCHEMAS)
    watch.feed(Piece("text", "<tool_", 0))
    watch.reset()
    assert watch.feed(Piece("text", "call>", 1)) is None
