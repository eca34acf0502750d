"""The watch over parts that are told apart: it finds what `Watch` finds, and what only other servers do."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from detectors.channels import Piece
from detectors.finding import Finding, Grade
from detectors.parts import Part
from detectors.placed_watch import PlacedWatch
from detectors.tool_schema import ToolSchemas
from detectors.watch import ReadCall, Said
from tests.proxy.scripted import cut, token_id

SCHEMAS = ToolSchemas.compile([("ls", {"properties": {"path": {"type": "string"}}, "required": ["path"]})])
Token = tuple[int, Sequence[Part]]


def said_in(channel: str, text: str, index: int = 0, name: str = "") -> list[Token]:
    """A token for each piece of the text."""
    parts = [Part(channel, piece, index) for piece in cut(text)]  # type: ignore[arg-type]
    if name:
        parts = [Part("call", "", index, name), *parts]
    return [(token_id(part.text), [part]) for part in parts]


def watch(
    tokens: Sequence[Token], by_bytes: bool = False, chars: int = 10_000
) -> tuple[PlacedWatch, list[Said], list[Finding]]:
    observer = PlacedWatch(SCHEMAS, chars, by_bytes=by_bytes)
    said: list[Said] = []
    findings: list[Finding] = []
    for position, (token, parts) in enumerate(tokens):
        more, finding = observer.feed_parts(position, token, parts)
        said += more
        findings += [finding] if finding else []
    return observer, said, findings


LS = said_in("call", '{"path": "src"}', name="ls")


def test_a_valid_call_is_read() -> None:
    observer, said, findings = watch([*said_in("thinking", "hm hm"), *said_in("text", "a"), *LS])
    more, found = observer.finish("stop")
    assert (findings, found) == ([], None)
    (call,) = (each for each in [*said, *more] if isinstance(each, ReadCall))
    assert (call.index, call.name, call.arguments, call.violation) == (0, "ls", '{"path":"src"}', None)
    assert (call.first, call.last) == (3, 3 + len(LS) - 1)
    assert observer.thinking_tokens == 2
    assert [each.channel for each in said if isinstance(each, Piece)] == ["thinking", "thinking", "text"]


def test_a_call_is_found_bad_at_the_token_after_which_nothing_valid_can_follow() -> None:
    observer, _, findings = watch([*said_in("text", "a"), *said_in("call", '{"path": 7', name="ls")])
    (found,) = findings
    assert (found.detector, found.channel, found.began) == ("tool.schema", "tool:0", 1)
    assert observer.call_name == "ls"
    assert not observer.is_in_tag
    assert observer.finish("stop")[1] is None  # it was told


def test_an_unknown_tool_is_found_at_its_name() -> None:
    _, _, findings = watch([(1, [Part("call", "", 0, "rm")])])
    assert [(f.detector, f.position) for f in findings] == [("tool.unknown", 0)]


def test_only_the_limit_cuts_a_call_off() -> None:
    open_call = said_in("call", '{"path": "s', name="ls")
    said, found = watch(open_call)[0].finish("length")
    assert found is not None
    assert (found.detector, found.reason) == ("tool.truncated", "cut off: length")
    assert isinstance(said[0], ReadCall)
    assert said[0].name == ""
    _, found = watch(open_call)[0].finish("stop")
    assert found is not None
    assert found.detector == "tool.truncated"
    assert watch(open_call)[0].finish("stop_sequence") == ([], None)
    complete, found = watch(LS)[0].finish("length")
    assert found is not None
    assert isinstance(complete[0], ReadCall)


def test_what_cannot_be_handed_on_as_a_call_has_no_name() -> None:
    observer, _, _ = watch(said_in("call", "path=src", name="ls"))
    said, _ = observer.finish("stop")
    assert isinstance(said[0], ReadCall)
    assert (said[0].name, said[0].body) == ("", "path=src")


def test_an_object_that_is_not_valid_has_one_for_whoever_only_observes() -> None:
    observer, _, findings = watch(said_in("call", '{"pth": "src"}', name="ls"))
    said, _ = observer.finish("stop")
    assert isinstance(said[0], ReadCall)
    assert (said[0].name, said[0].arguments) == ("ls", '{"pth":"src"}')
    assert [found.detector for found in findings] == ["tool.schema"]


def test_a_tag_in_the_text_is_no_call() -> None:
    observer, said, findings = watch(said_in("text", 'so <tool_call>{"name"'))
    assert [(f.detector, f.began) for f in findings] == [("tool.leak", 2)]
    assert observer.call_began is None
    assert all(isinstance(each, Piece) for each in said)


@pytest.mark.parametrize("channel", ["text", "thinking"])
def test_tags_in_a_row(channel: str) -> None:
    _, _, findings = watch([(1, [Part(channel, "<tool_call>")])] * 20)  # type: ignore[arg-type]
    assert ("struct.run", Grade.ABORT) in [(f.detector, f.grade) for f in findings]


def test_the_tags_that_a_server_takes_out_are_no_run() -> None:
    turns: list[Token] = []
    for index in range(12):
        turns += [*said_in("thinking", "hm"), *said_in("call", f'{{"path": "{index}"}}', index, "ls")]
    assert [f for f in watch(turns)[2] if f.detector.startswith("struct.")] == []


def test_thinking_that_begins_again_and_again() -> None:
    tokens = [*said_in("thinking", "hm"), *said_in("text", "so")] * 40
    assert "struct.think" in {f.detector for f in watch(tokens)[2]}


def test_loops_are_found_by_ids_in_every_channel_apart() -> None:
    for channel in ("text", "thinking"):
        _, _, findings = watch(said_in(channel, " go on" * 200))
        assert {f.channel for f in findings} == {channel}
        assert "loop.period" in {f.detector for f in findings}
    mixed = [*said_in("thinking", " go on" * 30), *said_in("text", " go on" * 30)]
    assert watch(mixed)[2] == []


def test_loops_are_found_by_bytes_however_the_text_is_cut() -> None:
    text = "and then it goes on " * 60
    uneven: list[str] = []
    at, size = 0, 3
    while at < len(text):
        uneven.append(text[at : at + size])
        at, size = at + size, 3 + (size * 7) % 11
    tokens: list[Token] = [(token_id(piece), [Part("text", piece)]) for piece in uneven]
    assert "loop.bytes" in {f.detector for f in watch(tokens, by_bytes=True)[2]}
    assert watch(tokens[:20], by_bytes=True)[2] == []


def test_suspicion_of_bytes_holds_the_text() -> None:
    text = "and then it goes on " * 22
    pieces: list[Token] = [(at, [Part("text", text[at : at + 11])]) for at in range(0, len(text), 11)]
    assert watch(pieces, by_bytes=True)[0].suspicious


def test_tokens_that_say_nothing() -> None:
    tokens: list[Token] = [*said_in("text", "a"), *[(5, [])] * 40]
    _, _, findings = watch(tokens)
    assert [(f.detector, f.began) for f in findings] == [("lane.swallowed", 1)]


def test_a_call_that_was_swallowed_at_the_end() -> None:
    tokens: list[Token] = [*said_in("text", "a"), *[(at, []) for at in range(20)]]
    found = watch(tokens)[0].finish("stop")[1]
    assert found is not None
    assert found.detector == "lane.swallowed"
    assert watch([*tokens[:1], *LS, *tokens[1:]])[0].finish("stop")[1] is None
    assert watch(tokens)[0].finish("length")[1] is None


def test_a_call_that_grows_too_long() -> None:
    _, _, findings = watch(said_in("call", '{"path": "' + "abcd" * 50, name="ls"), chars=100)
    assert (findings[0].detector, findings[0].began) == ("tool.limit", 0)


def test_a_kept_prefix_restores_it() -> None:
    tokens = [*said_in("thinking", "hm"), *said_in("text", "so <tool"), *LS]
    for kept in range(len(tokens)):
        again = PlacedWatch(SCHEMAS, 10_000)
        for position, (token, parts) in enumerate(tokens[:kept]):
            again.feed_parts(position, token, parts)
        before = watch(tokens[:kept])[0]
        for position, (token, parts) in enumerate(tokens[kept:], kept):
            assert again.feed_parts(position, token, parts) == before.feed_parts(position, token, parts)
        assert again.finish("stop") == before.finish("stop")


def test_words_between_tags_end_a_run_and_quotes_take_them_out() -> None:
    told = [(token_id(str(at)), [Part("text", piece)]) for at, piece in enumerate(["<think>", " and words "] * 5)]
    assert watch(told)[2] == []
    quoted = [(token_id(str(at)), [Part("text", piece)]) for at, piece in enumerate(["`", "<think>", "`, "] * 5)]
    assert watch(quoted)[2] == []


def test_a_run_of_tags_that_were_cut_is_found() -> None:
    cut_up = [(token_id(str(at)), [Part("text", piece)]) for at, piece in enumerate(["<thi", "nk>"] * 4)]
    assert [found.detector for found in watch(cut_up)[2]] == ["struct.run", "struct.run"]


@dataclass(frozen=True)
class Placed:
    id: int
    parts: Sequence[Part] | None


PIECES = [
    " the",
    "\n",
    "a",
    "<",
    "function=ls>",
    "<parameter=path>",
    "tool_call>",
    "`",
    "ж",
    "```\n",
    "",
    "<think>",
    " of",
]
CHANNELS = ["text", "text", "text", "thinking", "call"]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("by_bytes", [False, True])
def test_texts_at_once_are_as_one_by_one(seed: int, by_bytes: bool) -> None:
    """Same pieces, same findings, same state, whatever comes after it."""
    draw = random.Random(seed)
    channel, tokens = "text", list[Placed]()
    weights = [draw.random() ** 3 for _ in PIECES]
    for _ in range(600):
        channel = draw.choice(CHANNELS) if draw.random() < 0.03 else channel
        pieces = draw.choices(PIECES, weights, k=draw.choices([1, 2], [30, 1])[0])
        name = "ls" if channel == "call" and draw.random() < 0.3 else ""
        parts = [Part(channel, piece, 0, name) for piece in pieces]  # type: ignore[arg-type]
        tokens.append(Placed(token_id("".join(pieces)), [] if draw.random() < 0.02 else parts))
    compare(tokens, by_bytes, lambda: draw.randint(1, 9))


@pytest.mark.parametrize("by_bytes", [False, True])
@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        (["well", "\n", "<function=ls>", "\n", "<parameter", "=path>", "src"], ["tool.leak"]),
        (["say", " `", "<tool_call>", "`", " and", " then", " <tool_call>"], ["tool.leak"]),
        ([" la", " le", " li"] * 400, ["loop.period", "loop.period", "loop.period"]),
        (["a", *[""] * 14, " b", *[""] * 14], []),
    ],
)
def test_nothing_is_lost_between_texts_at_once_and_tokens_alone(
    pieces: list[str], found: list[str], by_bytes: bool
) -> None:
    tokens = [Placed(token_id(piece), [Part("text", piece)] if piece else []) for piece in pieces]
    findings = compare(tokens, by_bytes, lambda: 5)
    assert [each.detector for each in findings if each.detector != "loop.bytes"] == found


def compare(tokens: Sequence[Placed], by_bytes: bool, width: Callable[[], int]) -> list[Finding]:
    """Feeds two watches; what they found."""
    single, together = (PlacedWatch(SCHEMAS, 10_000, by_bytes=by_bytes) for _ in range(2))
    findings: list[Finding] = []
    at = several = 0
    while at < len(tokens):
        said, finding = together.feed_texts(at, tokens[at : at + width()])
        several += len(said) > 1
        count = max(1, len(said))
        if not said:
            said, finding = together.feed_parts(at, tokens[at].id, tokens[at].parts or [])
        expected = [single.feed_parts(at + n, tokens[at + n].id, tokens[at + n].parts or []) for n in range(count)]
        assert said == [each for more, _ in expected for each in more]
        assert [found for _, found in expected if found is not None] == ([finding] if finding is not None else [])
        assert (together.suspicious, together.channel, together.thinking_tokens) == (
            single.suspicious,
            single.channel,
            single.thinking_tokens,
        )
        findings += [finding] if finding is not None else []
        at += count
    assert several or len(tokens) < 50
    last, ending = together.finish("stop")
    assert (last, ending) == single.finish("stop")
    return [*findings, *([ending] if ending is not None else [])]
