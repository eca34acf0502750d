"""The loop of a coding agent: ask, show, run the calls, append the results, until the model is done.

Must not: know how anything is displayed (a Watcher is told), or trust what the model says about the tests.
Invariant: every call gets exactly one result, in order, before the model is asked again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from examples.agent import protocol
from examples.agent.client import ChatClient
from examples.agent.transcript import Call, Transcript, Turn
from examples.agent.workspace import Workspace

MAX_TURNS = 16
MAX_TOKENS = 512
"""Per response: an answer of this agent is one call or one sentence."""


class Watcher:
    """Is told what happens, as it happens; this one keeps quiet."""

    def text(self, piece: str) -> None:
        """A piece of the model's text arrived."""

    def turn_ends(self, turn: Turn) -> None:
        """A response is complete; its calls have not run yet."""

    def call_ends(self, call: Call, result: str) -> None:
        """A tool call was run."""


async def repair(
    client: ChatClient,
    workspace: Workspace,
    watcher: Watcher,
    *,
    task: str = "",
    max_turns: int = MAX_TURNS,
    **sampling: float | int,
) -> Transcript:
    """Lets the model work on the repository. Raises ChatError if the server fails.

    task: what to do; by default, to make the failing tests pass.
    sampling: e.g. temperature and seed; greedy by default.
    """
    if not task:
        task = protocol.first_message(workspace.files(), await asyncio.to_thread(workspace.run_tests))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": protocol.SYSTEM_PROMPT},
        {"role": "user", "content": task},
    ]
    options: Mapping[str, float | int] = {"temperature": 0, "max_tokens": MAX_TOKENS, **sampling}
    transcript = Transcript()
    while len(transcript.turns) < max_turns and not transcript.finished:
        turn = await client.respond(messages, protocol.TOOLS, watcher.text, **options)
        transcript.turns.append(turn)
        watcher.turn_ends(turn)
        messages.append(as_message(turn))
        for call in turn.calls:
            result = await asyncio.to_thread(execute, workspace, call)
            turn.results.append(result)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            watcher.call_ends(call, result)
        transcript.finished = not turn.calls
    transcript.tests_green = is_green(await asyncio.to_thread(workspace.run_tests))
    return transcript


def as_message(turn: Turn) -> dict[str, Any]:
    """The turn as the server wants it back in the next request."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.calls
        ]
    elif not turn.text:
        message["content"] = ""
    return message


def execute(workspace: Workspace, call: Call) -> str:
    """Runs one call; a call that cannot be read becomes a result that the model can mend."""
    try:
        arguments = call.parsed()
    except ValueError:
        return "error: the arguments are not a JSON object"
    return workspace.call(call.name, arguments)


def is_green(test_output: str) -> bool:
    """Whether all tests passed, and there was at least one."""
    return re.fullmatch(r"[1-9]\d* passed", test_output.strip()) is not None
