"""Command line of the example agent: `python -m examples.agent --repo DIR`.

Must not: contain behaviour of its own beyond reading options.
Invariant: exit status 0 means that the tests of the repository pass.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from rich.console import Console

from examples.agent.agent import MAX_TURNS, repair
from examples.agent.client import ChatClient, ChatError
from examples.agent.screen import Screen
from examples.agent.workspace import Workspace


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.agent",
        description="Repair a Python repository with any OpenAI-compatible server.",
        epilog="The API key, if the server wants one, is read from OPENAI_API_KEY.",
    )
    parser.add_argument("--base-url", default="http://127.0.0.1:8787/v1", help="default: %(default)s")
    parser.add_argument("--model", default="", help="default: the first that the server lists")
    parser.add_argument("--repo", type=Path, default=Path("."), help="folder with the code and its tests")
    parser.add_argument("--task", default="", help="what to do (default: make the failing tests pass)")
    parser.add_argument("--max-turns", type=int, default=MAX_TURNS, help="default: %(default)s")
    parser.add_argument("--plain-output", action="store_true", help="no colours")
    return parser.parse_args(arguments)


async def run(chosen: argparse.Namespace) -> int:
    console = Console(no_color=chosen.plain_output, highlight=False)
    key = os.environ.get("OPENAI_API_KEY", "")
    try:
        async with ChatClient(chosen.base_url, chosen.model, key) as client:
            client.model = client.model or await client.first_model()
            transcript = await repair(
                client, Workspace(chosen.repo), Screen(console), task=chosen.task, max_turns=chosen.max_turns
            )
    except ChatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if transcript.tests_green:
        console.print(f"The tests pass after {len(transcript.turns)} turns.", style="bold green")
        return 0
    console.print("The tests do not pass.", style="bold red")
    return 1


def main() -> int:
    chosen = options(sys.argv[1:])
    if not chosen.repo.is_dir():
        print(f"error: no folder {chosen.repo}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(run(chosen))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
