"""The demo from beginning to end: run, compare with plain decoding, plant a fault, compare, show the record.

Must not: reach into the server; everything is done through its command line and its HTTP API.
Invariant: every run starts from a fresh copy of the task and a fresh server.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from examples.agent.agent import Watcher, repair
from examples.agent.client import ChatClient, ChatError
from examples.agent.screen import Screen
from examples.agent.transcript import Call, Transcript, Turn
from examples.agent.workspace import Workspace
from examples.demo.server import COMMAND, Server, ServerFailed
from examples.demo.verdict import Check, Runs, judge, tally

TASKS = Path(__file__).with_name("tasks")
PLANT = "verify-ignores-cache"
CLOSE_LIMIT_S = 30.0


class Counter(Watcher):
    """For a run that need not be read: one line per turn."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def turn_ends(self, turn: Turn) -> None:
        names = ", ".join(call.name for call in turn.calls) or "answer"
        self._console.print(Text(f"  {names}: {turn.tokens} tokens in {turn.seconds:.1f} s", style="dim"))

    def call_ends(self, call: Call, result: str) -> None:
        """The result of the first run has been shown already."""


class Story:
    """Tells one task. folder: scratch space for copies, logs and the incident store; command: specguard's."""

    def __init__(self, console: Console, task: Path, folder: Path, command: tuple[str, ...] = COMMAND) -> None:
        self.console, self._task, self._folder, self._command = console, task, folder, command
        self._store = folder / "incidents.sqlite"

    async def tell(self) -> list[Check]:
        """Returns the checks; raises ServerFailed."""
        self._introduce()
        self._headline("1. Full speed", "The agent works through the guard; the model speculates.")
        fast = await self._run("fast", Screen(self.console))
        self._headline("2. Plain decoding", "The same task again, one token at a time, to compare with.")
        plain = await self._run("plain", Counter(self.console), "--mode", "plain")
        self._headline(
            "3. Full speed with a fault planted",
            "Verification now ignores the cached context (the fault of vLLM #40831): drafts are accepted\n"
            "that the model would never have written. The agent is not told.",
        )
        planted = await self._run("planted", Screen(self.console), "--plant", PLANT)
        incidents = [await self._incident(incident) for incident in planted.incidents]
        if incidents:
            self._headline("4. The record", f"specguard incidents show {planted.incidents[0]}")
            shown = await asyncio.to_thread(self._specguard, "incidents", "show", planted.incidents[0])
            self.console.print(Text(shown.rstrip()), soft_wrap=True)
        runs = Runs(fast, plain, planted)
        checks = judge(runs, incidents)
        self._conclude(runs, checks)
        return checks

    async def _run(self, name: str, watcher: Watcher, *options: str) -> Transcript:
        repository = self._folder / name
        shutil.copytree(self._task, repository)
        log, stored = self._folder / f"{name}.log", ("--incidents", str(self._store))
        with Server(log, *stored, *options, command=self._command) as server:
            await self._wait(server)
            try:
                async with ChatClient(server.base_url, "", session=f"demo-{name}") as client:
                    client.model = await client.first_model()
                    transcript = await repair(client, Workspace(repository), watcher)
            except ChatError as error:
                raise ServerFailed(f"{error}\nThe server's last lines:\n{server.tail()}") from error
        if any((repository / path.name).read_bytes() != path.read_bytes() for path in self._tests()):
            transcript.tests_green = False
            self.console.print(Text("  the agent changed the tests, which does not count", style="red"))
        colour, word = ("green", "pass") if transcript.tests_green else ("red", "still fail")
        self.console.print(Text(f"  the tests {word}; {tally(transcript)}", style=colour))
        return transcript

    def _tests(self) -> list[Path]:
        return sorted(self._task.glob("test_*.py"))

    async def _wait(self, server: Server) -> None:
        doing = "starting the server: it loads the model and tests itself"
        if not self.console.is_terminal:
            self.console.print(f"  {doing}")
        with self.console.status(doing) as status:
            seconds = await server.ready(lambda waited: status.update(f"{doing} ({waited:.0f} s)"))
        self.console.print(Text(f"  server ready after {seconds:.1f} s", style="dim"))

    async def _incident(self, incident: str) -> Mapping[str, Any]:
        """The record as JSON; waits until it is closed, because the blame is proven after the response."""
        deadline = time.monotonic() + CLOSE_LIMIT_S
        while True:
            text = await asyncio.to_thread(self._specguard, "incidents", "show", incident, "--json")
            record: dict[str, Any] = json.loads(text)
            data: dict[str, Any] = record.get("data", record)
            if data.get("closed") or time.monotonic() > deadline:
                return data
            await asyncio.sleep(0.5)

    def _specguard(self, *arguments: str) -> str:
        command = [*self._command, *arguments, "--incidents", str(self._store)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise ServerFailed(f"specguard {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def _introduce(self) -> None:
        intent = "A coding agent repairs a bug through specguard, on the embedded model, on this machine's CPU."
        self.console.print(Panel(Text(intent), title="specguard demo", expand=False))
        for path in sorted(self._task.glob("*.py")):
            self.console.print(Text(path.name, style="bold"))
            for line in path.read_text(encoding="utf-8").rstrip().splitlines():
                self.console.print(Text(f"  {line}", style="dim"), soft_wrap=True)

    def _headline(self, title: str, explanation: str) -> None:
        self.console.print()
        self.console.print(Rule(Text(title, style="bold")))
        self.console.print(Text(explanation), soft_wrap=True)

    def _conclude(self, runs: Runs, checks: list[Check]) -> None:
        table = Table(box=None, show_header=False, padding=(0, 1))
        for check in checks:
            mark = Text("yes", style="bold green") if check.held else Text("NO", style="bold red")
            table.add_row(mark, Text(check.claim), Text(check.detail, style="dim"))
        for name, transcript in (("full speed", runs.fast), ("plain", runs.plain), ("planted", runs.planted)):
            table.add_row("", Text(name), Text(tally(transcript), style="dim"))
        held = all(check.held for check in checks)
        self.console.print()
        self.console.print(Panel(table, title="what held", border_style="green" if held else "red"))
