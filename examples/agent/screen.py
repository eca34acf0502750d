"""Shows an agent at work in a terminal, or as plain lines in a pipe.

Must not: change what is shown into anything else than text (model output is never read as markup).
Invariant: prints in the order in which things happened.
"""

from __future__ import annotations

from difflib import SequenceMatcher

from rich.console import Console
from rich.text import Text

from examples.agent.agent import Watcher, is_green
from examples.agent.transcript import Call, Turn

SHOWN_LINES = 12


class Screen(Watcher):
    """Prints text as it streams, then each call with its result, then the numbers of the turn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._turns = 0
        self._in_text = False

    def text(self, piece: str) -> None:
        if not self._in_text:
            piece = piece.lstrip()
            if not piece:
                return
            self._console.print("  ", end="")
        self._in_text = True
        self._console.print(Text(piece.replace("\n", "\n  ")), end="", soft_wrap=True)

    def turn_ends(self, turn: Turn) -> None:
        if self._in_text:
            self._console.print()
        self._in_text = False
        self._turns += 1
        self._console.print(Text(f"  {self._turns}. {describe(turn)}", style="dim"), soft_wrap=True)
        for incident in turn.incidents:
            warning = f"  ! the guard stepped in ({incident}); this response ended in mode {turn.mode}"
            self._console.print(Text(warning, style="bold yellow"), soft_wrap=True)

    def call_ends(self, call: Call, result: str) -> None:
        for line in describe_call(call):
            self._console.print(line, soft_wrap=True)
        style = "green" if is_green(result) else "red" if result.startswith(("FAIL", "error")) else "dim"
        lines = result.splitlines()
        for text in lines[:SHOWN_LINES]:
            self._console.print(Text(f"    | {text}", style=style), soft_wrap=True)
        if len(lines) > SHOWN_LINES:
            self._console.print(Text(f"    | ... {len(lines) - SHOWN_LINES} more lines", style="dim"))


def describe(turn: Turn) -> str:
    """The numbers of a turn in one line; leaves out what the server did not tell."""
    parts = [f"{turn.tokens} tokens"] if turn.tokens else []
    if turn.tokens_per_second:
        parts.append(f"{turn.tokens_per_second:.0f} tokens/s")
    if turn.drafted:
        parts.append(f"{turn.accepted} of {turn.drafted} drafted tokens accepted")
    if cached := (turn.usage.get("prompt_tokens_details") or {}).get("cached_tokens"):
        parts.append(f"{cached} of {turn.usage.get('prompt_tokens', 0)} prompt tokens reused")
    if turn.mode:
        parts.append(turn.mode)
    return " · ".join(parts) or f"{turn.seconds:.1f} s"


def describe_call(call: Call) -> list[Text]:
    """A call as one line, an edit with its difference below."""
    try:
        arguments = {key: str(value) for key, value in call.parsed().items()}
    except ValueError:
        return [Text(f"  > {call.name} with unreadable arguments", style="bold red")]
    if {"old_string", "new_string"} <= arguments.keys():
        head = Text(f"  > {call.name} {arguments.get('path', '')}", style="bold cyan")
        return [head, *describe_edit(arguments["old_string"], arguments["new_string"])]
    return [Text(f"  > {call.name} {' '.join(arguments.values())}".rstrip(), style="bold cyan")]


def describe_edit(old: str, new: str) -> list[Text]:
    """What goes and what comes, line by line, among the lines that stay."""
    if old == new:
        return [Text("    (replaces the text by itself)", style="yellow")]
    before, after = old.splitlines(), new.splitlines()
    lines = []
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            lines += [Text(f"      {line}", style="dim") for line in before[i:j]]
        else:
            lines += [Text(f"    - {line}", style="red") for line in before[i:j]]
            lines += [Text(f"    + {line}", style="green") for line in after[k:m]]
    return lines
