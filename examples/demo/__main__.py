"""Command line of the demo: `python -m examples.demo`.

Must not: contain any part of the story.
Invariant: exit status 0 means that every claim held; nothing is left running, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from examples.demo.server import ServerFailed
from examples.demo.story import TASKS, Story

DEFAULT_TASK = "seats"


def options(arguments: list[str]) -> argparse.Namespace:
    names = sorted(path.name for path in TASKS.iterdir() if path.is_dir())
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=names, default=DEFAULT_TASK, help="which bug (default: %(default)s)")
    parser.add_argument("--repo", type=Path, help="a folder of your own with a module, a bug and its test")
    parser.add_argument("--plain-output", action="store_true", help="no colours")
    return parser.parse_args(arguments)


async def run(console: Console, task: Path) -> int:
    loop, story = asyncio.get_running_loop(), asyncio.current_task()
    assert story is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, story.cancel)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="specguard-demo-") as folder:
        try:
            checks = await Story(console, task, Path(folder)).tell()
        except ServerFailed as error:
            console.print(Text(f"The demo stopped: {error}", style="bold red"), soft_wrap=True)
            return 2
    console.print(f"{time.monotonic() - started:.0f} s in all.")
    return 0 if all(check.held for check in checks) else 1


def main() -> int:
    chosen = options(sys.argv[1:])
    console = Console(no_color=chosen.plain_output, highlight=False)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        return asyncio.run(run(console, chosen.repo or TASKS / chosen.task))
    console.print("Stopped; the server is gone and the temporary files are removed.")
    return 130


if __name__ == "__main__":
    sys.exit(main())
