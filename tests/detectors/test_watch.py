"""The watch over a response: which channel a loop is in, when a call is judged, and rebuilding."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Piece
from detectors.finding import Finding, Grade
from detectors.loop_settings import LoopSettings
from detectors.period import Threshold, Thresholds
from detectors.settings import DetectorSettings
from detectors.tool_schema import ToolSchemas
from detectors.watch import ReadCall, Said, Watch
from tests.proxy.scripted import call_text, cut, token_id

SCHEMAS = ToolSchemas.compile([("ls", {"properties": {"path": {"type": "string"}}, "required": ["path"]})])
LS = call_text("ls", path="src")


def watch(text: str, call_chars: int = 10_000) -> tuple[Watch, list[Said], list[Finding]]:
    observer = Watch(SCHEMAS, call_chars)
    said: list[Said] = []
    findings: list[Finding] = []
    for position, piece in enumerate(cut(text)):
        more, finding = observer.feed(position, token_id(piece), piece)
        said += more
        findings += [finding] if finding else []
    return observer, said, findings


def test_a_valid_call_is_read() -> None:
    _, said, findings = watch(f"a{LS}")
    assert findings == []
    call = said[-1]
    assert isinstance(call, ReadCall)
    assert (call.index, call.name, call.arguments, call.violation) == (0, "ls", '{"path":"src"}', None)
    assert (call.first, call.last) == (1, len(cut(LS)))


def test_an_invalid_call_is_found_at_its_last_token_and_accused_from_its_first() -> None:
    _, said, findings = watch(f"a{call_text('ls')}")
    assert [(f.detector, f.channel, f.began) for f in findings] == [("tool.schema", "tool:0", 1)]
    assert isinstance(said[-1], ReadCall)
    assert findings[0].position == said[-1].last
    assert said[-1].name == "ls"


def test_broken_markup_has_no_name() -> None:
    _, said, findings = watch("<tool_call>ls</tool_call>")
    assert (findings[0].detector, findings[0].reason) == ("tool.markup", "missing_function")
    assert isinstance(said[-1], ReadCall)
    assert (said[-1].name, said[-1].body) == ("", "ls")


@pytest.mark.parametrize("end", ["stop", "length"])
def test_a_call_cut_off_by_the_end(end: str) -> None:
    observer, _, _ = watch(LS[:-20])
    said, finding = observer.finish("stop" if end == "stop" else "length")
    assert finding is not None
    assert (finding.detector, finding.reason, finding.began) == ("tool.truncated", f"cut off: {end}", 0)
    assert isinstance(said[0], ReadCall)


def test_a_call_cut_off_by_a_stop_string_is_dropped() -> None:
    observer, _, _ = watch(LS[:-20])
    assert observer.finish("stop_sequence") == ([], None)


def test_a_call_that_grows_too_long() -> None:
    _, _, findings = watch(call_text("ls", path="abcd" * 50), call_chars=100)
    assert (findings[0].detector, findings[0].began) == ("tool.limit", 0)


def test_text_and_arguments_have_their_own_thresholds() -> None:
    loop = " go" * 100
    observer, _, findings = watch(f"I{loop}")
    assert [(f.detector, f.grade, f.channel) for f in findings] == [("loop.period", Grade.SUSPECT, "text")]
    assert observer.suspicious
    observer, _, findings = watch(f"<tool_call>\n<function=ls>\n<parameter=path>\n{loop}")
    assert findings == []
    assert not observer.suspicious


def test_a_loop_that_counts_is_found_in_text_and_not_in_arguments() -> None:
    loop = "".join(f" step {i} is done" for i in range(300))
    _, _, findings = watch(f"I{loop}")
    assert "loop.counter" in {f.detector for f in findings}
    _, _, findings = watch(f"<tool_call>\n<function=ls>\n<parameter=path>\n{loop}")
    assert [f for f in findings if f.detector == "loop.counter"] == []


def test_settings_reach_the_loop_detectors() -> None:
    strict = Thresholds(None, Threshold(3, 64), Threshold(6, 4000))
    settings = DetectorSettings(loops=LoopSettings(prose=strict))
    observer = Watch(SCHEMAS, 10_000, settings=settings)
    found = [f for i, piece in enumerate(cut(" go" * 100)) if (f := observer.feed(i, token_id(piece), piece)[1])]
    assert (found[0].grade, found[0].position) == (Grade.FALLBACK, 63)


def test_a_loop_does_not_reach_across_channels() -> None:
    half = " go" * 60
    observer, _, findings = watch(f"<think>{half}</think>{half}")
    assert findings == []
    assert observer.channel == "text"


def test_thinking_is_counted() -> None:
    observer, said, _ = watch("<think>a b</think>c")
    assert observer.thinking_tokens == 3
    assert said[0] == Piece("thinking", "a", 1)


@given(st.lists(st.sampled_from(["a", " go", "<think>", "</think>", LS, "<tool_call>", "\n"]), max_size=60))
def test_a_new_watch_fed_with_the_kept_tokens_is_the_same(parts: list[str]) -> None:
    text = "".join(parts)
    first, _, _ = watch(text)
    again, _, _ = watch(text)
    for piece in cut(f" x{LS}"):
        assert first.feed(9_999, token_id(piece), piece) == again.feed(9_999, token_id(piece), piece)
    assert (first.channel, first.suspicious, first.call_began) == (
        again.channel,
        again.suspicious,
        again.call_began,
    )


EDIT = ToolSchemas.compile(
    [
        (
            "edit",
            {
                "type": "object",
                "properties": {
                    "mode": {"type": "string", "enum": ["all", "first"]},
                    "edits": {"type": "array", "items": {"type": "object", "required": ["old"]}},
                },
                "additionalProperties": False,
            },
        )
    ]
)


def transcript(text: str) -> list[str]:
    """`>>` tokens as they come, `<<` what is found at them."""
    observer, told = Watch(EDIT, 10_000), []
    for position, piece in enumerate(cut(text)):
        said, finding = observer.feed(position, token_id(piece), piece)
        told.append(f">> {piece.strip()}")
        if finding is not None:
            told.append(f"<< {finding.detector} {finding.reason} at {finding.position} since {finding.began}")
        told += [f"<< call {each.name}" for each in said if isinstance(each, ReadCall)]
    return told


def test_a_bad_value_is_found_at_the_token_that_makes_it_bad() -> None:
    told = transcript(f"I\n{call_text('edit', mode='alone', edits='[]')}")
    found = [i for i, line in enumerate(told) if line.startswith("<<")]
    assert told[found[0] - 1 : found[0] + 1] == [
        ">> alon",
        f"<< tool.schema enum at {found[0] - 1} since {found[0] - 1}",
    ]
    assert told[found[1]] == "<< call edit"
    assert len(found) == 2  # the complete call is not accused a second time


def test_a_bad_argument_inside_json_is_found_before_the_call_ends() -> None:
    told = transcript(call_text("edit", edits='[{"old": "x"}, {"new": "y"}]', mode="all"))
    found = [i for i, line in enumerate(told) if line.startswith("<< tool")]
    assert told[found[0] - 1] == ">> }"
    assert told[found[0]].startswith("<< tool.schema required")
    assert found[0] < len(told) - 20


def test_an_undeclared_parameter_is_found_when_its_name_is_complete_and_accused_from_its_tag() -> None:
    told = transcript(call_text("edit", secret="1"))
    at = told.index(">> >", told.index(">> para")) if ">> para" in told else -1
    assert told[at + 1] == f"<< tool.schema additionalProperties at {at} since {told.index('>> <', at - 9)}"


def test_a_call_in_the_text_is_found() -> None:
    leaked = call_text("edit", mode="all").removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    told = transcript(f"I edit.\n{leaked}")
    assert [line.split(" at ")[0] for line in told if line.startswith("<<")] == [
        "<< tool.leak call outside of its tags"
    ]


@pytest.mark.parametrize("between", [LS, "<think>hm</think>"])
@pytest.mark.parametrize("size", [1, 11, 39, 200])
def test_another_channel_ends_the_line_wherever_the_tokens_end(between: str, size: int) -> None:
    """Markup after a call is at the start of a line, also where one token ends the call and goes on with the text."""
    text = f"so{between}<function=ls>\n<parameter=path>\nx\n"
    observer = Watch(SCHEMAS, 10_000)
    found = [observer.feed(at, 1, text[at : at + size])[1] for at in range(0, len(text), size)]
    assert [each.detector for each in found if each] == ["tool.leak"]


@given(st.sampled_from([LS, call_text("ls"), call_text("ls", path="x", y="z"), "<tool_call>x</tool_call>"]), st.data())
def test_a_call_is_accused_once_and_never_if_it_is_valid(text: str, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 12))
    observer = Watch(SCHEMAS, 10_000)
    findings, calls = [], []
    for position in range(0, len(text), size):
        said, finding = observer.feed(position, position, text[position : position + size])
        findings += [finding] if finding else []
        calls += [each for each in said if isinstance(each, ReadCall)]
    assert len(findings) == (calls[0].violation is not None)


def names(text: str, schemas: ToolSchemas = SCHEMAS, scripts: frozenset[str] | None = None) -> list[str]:
    observer = Watch(schemas, 1 << 20) if scripts is None else Watch(schemas, 1 << 20, scripts=scripts)
    found = [observer.feed(n, token_id(piece), piece)[1] for n, piece in enumerate(cut(text))]
    return [f"{finding.detector} {finding.grade.name} {finding.channel}" for finding in found if finding is not None]


def test_equal_calls_are_counted_over_the_whole_response() -> None:
    assert names(f"{LS}\nso\n{LS}{LS}") == ["loop.calls SUSPECT tool:1", "loop.calls FALLBACK tool:2"]
    assert names("\n".join(call_text("ls", path=f"src{n}") for n in range(9))) == []


def test_an_element_that_repeats_in_an_argument() -> None:
    found = names(call_text("edit", edits="[" + '{"old": "word"},' * 70 + '{"old": ""}]'), EDIT)
    assert [each for each in found if each.startswith("loop.elements")] == [
        "loop.elements SUSPECT tool:0",
        "loop.elements FALLBACK tool:0",
    ]
    assert "loop.elements" not in "".join(names(call_text("ls", path='["word"],' * 70)))  # the value is a text


def test_elements_do_not_add_up_over_calls() -> None:
    call = call_text("edit", edits="[" + '{"old": "word"},' * 14 + '{"old": ""}]')
    assert [each for each in names(call * 2, EDIT) if each.startswith("loop.elements")] == []


def test_tags_and_characters_that_do_not_belong() -> None:
    assert names("so <|fim_suffix|> it") == ["struct.misplaced SUSPECT text"]
    assert names("<think>\ufffd</think>") == ["text.charset SUSPECT thinking"]
    assert names("\ufffd", scripts=frozenset({"\ufffd"})) == []


def test_of_several_findings_at_a_token_the_gravest_speaks() -> None:
    """The third tag is a run, and bad markup since the second."""
    assert names("<tool_call>" * 4)[:2] == ["tool.markup FALLBACK tool:0", "struct.run FALLBACK tool:0"]
    found = names("<tool_call></tool_call>" * 5)
    assert found[-1] == "loop.calls ABORT tool:4"


BY_TEXT = st.sampled_from(
    [
        "so we go on",
        LS,
        call_text("rm"),
        call_text("ls", paht="x"),
        "<tool_call>{</tool_call>",
        "<tool_call><tool_call><tool_call>",
        "</think>",
        "<think>",
        "<|im_start|>",
        '{"name": "ls", "arguments": {"path": "x"}}\n',
        "<function=ls>\n<parameter=path>\nx\n</parameter>\n</function>",
        "\ufffd",
        "яжд λόγ 中文字 ",
        "\n",
    ]
)


@given(st.lists(BY_TEXT, max_size=8).map("".join), st.booleans(), st.data())
def test_the_cut_into_tokens_does_not_move_what_is_found_in_the_text(
    text: str, thinking: bool, data: st.DataObject
) -> None:
    """Against one character per token: each finding of a coarser cut is one of the gravest of its token, in the token
    in which it is complete, and begins in the token in which it begins there. (Loops are counted in tokens.)"""
    pieces, rest = list[str](), text
    while rest:
        size = data.draw(st.integers(1, 40))
        pieces, rest = [*pieces, rest[:size]], rest[size:]
    ends = list(accumulate(map(len, pieces)))

    def token_of(character: int) -> int:
        return bisect_right(ends, character)

    told: dict[int, list[Finding]] = {}
    for found in in_text(list(text), thinking):
        told.setdefault(token_of(found.position), []).append(found)
    coarse = in_text(pieces, thinking)
    assert [found.position for found in coarse] == sorted(told)
    for found in coarse:
        same = told[found.position]
        gravest = [each for each in same if each.grade == max(each.grade for each in same)]
        assert (found.detector, found.grade, found.began) in [(f.detector, f.grade, token_of(f.began)) for f in gravest]


BY_TOKENS = {"loop.period", "loop.near", "loop.counter", "loop.single"}


def in_text(pieces: list[str], thinking: bool) -> list[Finding]:
    """Findings about the text, whatever its tokens."""
    observer = Watch(SCHEMAS, 10_000, thinking)
    found = [observer.feed(i, token_id(piece), piece)[1] for i, piece in enumerate(pieces)]
    found.append(observer.finish("length")[1])
    return [each for each in found if each is not None and each.detector not in BY_TOKENS]


FREE = ToolSchemas.compile(
    [
        ("ls", {"properties": {"path": {"type": "string"}}, "required": ["path"]}),
        ("put", {"properties": {"text": {"type": "string", "maxLength": 9}, "any": {}, "all": {"type": "array"}}}),
    ]
)
OPENINGS = ["<tool_call>\n<function=ls>\n<parameter=path>", "<tool_call>\n<function=put>\n<parameter=text>"]
IN_CALLS = st.sampled_from(
    [
        *OPENINGS,
        "<parameter=any>\n",
        "<parameter=all>\n",
        "\n",
        "def f(x):\n    return x + 1\n",
        "\n</parameter>",
        "</parameter>\n",
        "</function>\n</tool_call>",
        " <",
        "<param",
        "<parameter=path>",
        "<function=x>",
        "<tool_call>",
        "eter=x>\n",
        "over and over " * 60,
        "'\"\\ \u2028 \U0001f600 \x01",
        "[1, 2, 3, ",
        "a",
    ]
)


@given(
    st.sampled_from(OPENINGS),
    st.lists(IN_CALLS, max_size=12).map("".join),
    st.integers(40, 4_000),
    st.integers(0, 1 << 32),
)
def test_a_run_of_tokens_is_what_they_are_one_by_one(opening: str, rest: str, call_chars: int, seed: int) -> None:
    """Tokens with and without text, in steps of any width; the state behind them is the same too."""
    text, random = f"so {opening}\n{rest}", Random(seed)
    tokens: list[Said1] = []
    while text:
        size = random.randint(0, 12)
        tokens, text = [*tokens, Said1(token_id(text[:size]), text[:size])], text[size:]
    apart, together = Watch(FREE, call_chars), Watch(FREE, call_chars)
    one_by_one = [apart.feed(position, token.id, token.text) for position, token in enumerate(tokens)]
    at = 0
    while at < len(tokens):
        width = random.randint(1, 9)
        count, finding = together.feed_run(at, tokens[at : at + width])
        if count:
            silent: list[tuple[list[Said], Finding | None]] = [([], None)] * (count - 1)
            assert [*silent, ([], finding)] == one_by_one[at : at + count]
        else:
            count = 1
            assert together.feed(at, tokens[at].id, tokens[at].text) == one_by_one[at]
        at += count
    assert (apart.call_began, apart.call_name, apart.call_chars) == (
        together.call_began,
        together.call_name,
        together.call_chars,
    )
    assert apart.finish("length") == together.finish("length")


@dataclass(frozen=True)
class Said1:
    id: int
    text: str


def test_a_long_text_argument_is_taken_in_runs() -> None:
    tokens = [Said1(token_id(piece), piece) for piece in cut(f"{OPENINGS[0]}\n" + "one two three\n" * 20)]
    observer, taken, at = Watch(FREE, 10_000), 0, 0
    while at < len(tokens):
        count, finding = observer.feed_run(at, tokens[at : at + 8])
        if not count:
            _, finding = observer.feed(at, tokens[at].id, tokens[at].text)
        assert finding is None
        taken, at = taken + count, at + (count or 1)
    assert taken > 80


def test_a_text_argument_of_which_something_is_demanded_is_not() -> None:
    tokens = [Said1(token_id(piece), piece) for piece in cut(f"{OPENINGS[1]}\none two three")]
    observer = Watch(FREE, 10_000)
    found = []
    for at in range(len(tokens)):
        assert observer.feed_run(at, tokens[at:]) == (0, None)
        found += [observer.feed(at, tokens[at].id, tokens[at].text)[1]]
    assert [each.detector for each in found if each] == ["tool.schema"]


def test_what_is_no_text_is_found_at_its_own_token() -> None:
    texts = [f"{OPENINGS[0]}\n", "one ", "two", " \ud83d", " three", ""]
    tokens = [Said1(number, text) for number, text in enumerate(texts)]
    apart, together = Watch(FREE, 10_000), Watch(FREE, 10_000)
    alone = [apart.feed(at, token.id, token.text)[1] for at, token in enumerate(tokens)]
    assert [each.position for each in alone if each is not None] == [3]
    assert together.feed(0, 0, texts[0]) == ([], None)
    assert together.feed_run(1, tokens[1:]) == (2, None)
    assert together.feed_run(3, tokens[3:]) == (0, None)
    assert together.feed(3, 3, texts[3]) == ([], alone[3])


@pytest.mark.parametrize(
    ("begun", "rest", "found"),
    [
        (["a\n", "<parameter=q>"], ["\n", "b", "c"], ""),
        (["a ", "<|im_", "start|>", "<|im_"], ["start|>", "b", "c"], ""),
        (["a ", *["<fim_", "prefix>"] * 7, "<fim_"], ["prefix>", "b", "c"], "struct.run"),
        (["a\n", "</para"], ["meter>\n", "b", "c"], ""),
    ],
)
def test_what_is_open_is_read_to_its_end_first(begun: list[str], rest: list[str], found: str) -> None:
    texts = [OPENINGS[0], "\n", *begun, *rest]
    tokens = [Said1(token_id(text), text) for text in texts]
    observer = Watch(FREE, 10_000)
    for at in range(len(texts) - len(rest)):
        observer.feed(at, tokens[at].id, tokens[at].text)
    at = len(texts) - len(rest)
    assert observer.feed_run(at, tokens[at:]) == (0, None)
    finding = observer.feed(at, tokens[at].id, tokens[at].text)[1]
    assert (finding.detector if finding else "") == found
