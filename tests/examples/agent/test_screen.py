"""What a terminal shows of an agent at work: streamed text, calls, results, numbers, and never markup."""

from __future__ import annotations

import io
import json

from rich.console import Console

from examples.agent.screen import SHOWN_LINES, Screen, describe, describe_call, describe_edit
from examples.agent.transcript import Call, Turn


def screen() -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, width=40, no_color=True, highlight=False)), out


def call(name: str, **arguments: object) -> Call:
    return Call("c", name, json.dumps(arguments))


def test_text_streams_in_one_paragraph_with_an_indent() -> None:
    shown, out = screen()
    for piece in ("\n\n", " Wrong ", "operator.\n", "Fixed."):
        shown.text(piece)
    shown.turn_ends(Turn(usage={"completion_tokens": 4}))
    assert out.getvalue() == "  Wrong operator.\n  Fixed.\n  1. 4 tokens\n"


def test_a_turn_without_text_has_no_empty_line_and_turns_are_counted() -> None:
    shown, out = screen()
    shown.turn_ends(Turn(token_ids=[1]))
    shown.turn_ends(Turn(token_ids=[1, 2]))
    assert out.getvalue() == "  1. 1 tokens\n  2. 2 tokens\n"


def test_text_of_a_later_turn_is_indented_again() -> None:
    shown, out = screen()
    shown.text("One.")
    shown.turn_ends(Turn(token_ids=[1]))
    shown.text(" Two.")
    shown.turn_ends(Turn(token_ids=[1]))
    assert out.getvalue() == "  One.\n  1. 1 tokens\n  Two.\n  2. 1 tokens\n"


def test_model_output_is_never_read_as_markup() -> None:
    shown, out = screen()
    hostile = "[bold]a[/bold] [/nothing]"
    shown.text(hostile)
    shown.call_ends(call("read_file", path=hostile), hostile)
    assert out.getvalue().count(hostile) == 3


def test_an_incident_is_shown_with_the_mode_it_led_to() -> None:
    shown, out = screen()
    shown.turn_ends(Turn(token_ids=[1], mode="plain", incidents=["drift.logits"]))
    assert "  1. 1 tokens · plain\n" in out.getvalue()
    assert "the guard stepped in (drift.logits); this response ended in mode plain" in out.getvalue()


def test_a_long_result_is_cut_and_says_how_much_is_missing() -> None:
    shown, out = screen()
    shown.call_ends(call("run_tests"), "\n".join(f"line {i}" for i in range(SHOWN_LINES + 3)))
    lines = out.getvalue().splitlines()
    assert lines[0] == "  > run_tests"
    assert lines[1:-1] == [f"    | line {i}" for i in range(SHOWN_LINES)]
    assert lines[-1] == "    | ... 3 more lines"


def test_an_edit_is_shown_as_what_goes_and_what_comes() -> None:
    edit = call("edit_file", path="a.py", old_string="x\ny", new_string="z")
    assert [line.plain for line in describe_call(edit)] == ["  > edit_file a.py", "    - x", "    - y", "    + z"]


def test_an_edit_shows_which_lines_change() -> None:
    old, new = "def f(a):\n    b = a + 1\n    return b", "def f(a):\n    b = a\n    return b"
    assert [line.plain for line in describe_edit(old, new)] == [
        "      def f(a):",
        "    -     b = a + 1",
        "    +     b = a",
        "          return b",
    ]
    assert "itself" in describe_edit("same", "same")[0].plain


def test_other_calls_are_one_line_and_broken_arguments_are_said() -> None:
    assert [line.plain for line in describe_call(call("read_file", path="a.py"))] == ["  > read_file a.py"]
    assert [line.plain for line in describe_call(call("f", n=1, m=None))] == ["  > f 1 None"]
    assert [line.plain for line in describe_call(Call("c", "f", "{"))] == ["  > f with unreadable arguments"]


def test_numbers_of_a_turn_leave_out_what_is_unknown() -> None:
    full = Turn(
        usage={"completion_tokens": 10, "prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 64}},
        timings={"predicted_ms": 100.0, "predicted_n": 10, "draft_n": 8, "draft_n_accepted": 6},
        mode="mtp",
    )
    assert describe(full) == (
        "10 tokens · 100 tokens/s · 6 of 8 drafted tokens accepted · 64 of 90 prompt tokens reused · mtp"
    )
    assert describe(Turn(seconds=1.26)) == "1.3 s"
    assert describe(Turn(usage={"completion_tokens": 2, "prompt_tokens_details": None})) == "2 tokens"
