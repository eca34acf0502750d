"""The clients that are run as they are: where each is started, with which settings, and what it says of its turn.

Must not: set what a user would not; beside the settings that `specguard env` prints, each client gets what makes a run
repeatable without a terminal: no updates, no telemetry, no questions.
Invariant: what a client's `heard` returns is equal in two runs in which the same happened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.installing import place
from tests.clients.part import NAME, TASK
from tests.clients.stage import Home, Ran

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Command:
    """A client ready to start. settings: shell lines that it is started after."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""

    def in_shell(self) -> list[str]:
        """As a user does it: the printed lines, then the client."""
        return ["/bin/sh", "-c", f'{self.settings}\nexec "$@"', "sh", *self.argv]


@dataclass(frozen=True, slots=True)
class Client:
    """name: in `pins.toml`. api: that it speaks. env: its name for `specguard env`. command: made of what that prints.

    turns: requests in which the model plays its part; aside: what else it asks for. how: what else tells it from the
    same client by the same API. submits, in_text: see `Part`.
    """

    name: str
    api: str
    env: str
    command: Callable[[Path, Home, str], Command]
    heard: Callable[[Ran, Home], list[Any]]
    turns: int = 2
    aside: tuple[str, ...] = ()
    how: str = ""
    submits: bool = False
    in_text: bool = False

    def __str__(self) -> str:
        return "-".join(filter(None, (self.name, self.api, self.how)))


VOLATILE = re.compile(
    r"uuid|timestamp|time|ttft|start|end|.*_ms|duration.*|session_?id|thread_id|request_id|.*message_?id|.*call_?id|"
    r"tool_use_id|(item_)?id|created(_at)?|.*cost.*|messaging_socket_path|sequence_number|timings",
    re.IGNORECASE,
)
"""Keys of what differs between any two runs; `timings` is our own field, which tells what was drafted."""
ID = re.compile(
    r"\b(?:call|toolu|msg|fc|resp|chatcmpl|req)[_-][0-9A-Za-z]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


def steady(value: Any) -> Any:
    """Without times, costs and names that are drawn anew for each run."""
    if isinstance(value, dict):
        return {key: steady(inner) for key, inner in value.items() if not VOLATILE.fullmatch(key)}
    if isinstance(value, list):
        return [steady(inner) for inner in value]
    return ID.sub("ID", value) if isinstance(value, str) else value


def joined(ran: Ran, home: Home) -> list[Any]:
    """Of a stream, with neighbouring pieces of the same text put together: where it was cut is not told, nor how often
    the server said that it lives. (An item that begins holds its first piece already; when it ends, all of it.)"""
    heard: list[Any] = []
    for line in lines(ran, home):
        if line.get("type") in ("keepalive", "response.output_item.added"):
            continue
        same = [{**each, "delta": ""} for each in (*heard[-1:], line)]
        if isinstance(line.get("delta"), str) and len(same) == 2 and same[0] == same[1]:
            heard[-1]["delta"] += line["delta"]
        else:
            heard.append(line)
    return heard


def lines(ran: Ran, _: Home) -> list[Any]:
    """One JSON object a line."""
    return [steady(json.loads(line)) for line in ran.out.splitlines() if line.startswith("{")]


def claude_code(folder: Path, _: Home, settings: str) -> Command:
    # Its own package is a wrapper that an installation script would replace; the binary lies in the platform's.
    (program,) = folder.glob("node_modules/@anthropic-ai/claude-code-*/claude")
    argv = [str(program), "-p", TASK, "--allowedTools", "Write", "--output-format", "stream-json", "--verbose"]
    return Command(argv, {"DISABLE_AUTOUPDATER": "1"}, settings)


def bare_claude_code(folder: Path, home: Home, settings: str) -> Command:
    """With the address alone: its names for models, tools that it loads when needed, its own header in the prompt."""
    command = claude_code(folder, home, "")
    values = dict(re.findall(r"export (ANTHROPIC_BASE_URL|ANTHROPIC_AUTH_TOKEN)=(.*)", settings))
    return Command(command.argv, {**command.environment, **values})


def codex(folder: Path, home: Home, settings: str) -> Command:
    (home.user / ".codex").mkdir()
    (home.user / ".codex" / "config.toml").write_text(settings)
    # Its sandbox needs rights that a container may not give.
    argv = [f"{folder}/node_modules/.bin/codex", "exec", "--skip-git-repo-check", "--json", "-s", "danger-full-access"]
    return Command([*argv, TASK], {"SPECGUARD_KEY": "local"})


def opencode(package: str) -> Callable[[Path, Home, str], Command]:
    """package: of the AI SDK, which decides on the API."""

    def command(folder: Path, home: Home, settings: str) -> Command:
        configuration = json.loads(settings)
        configuration["provider"]["specguard"]["npm"] = package
        (home.work / "opencode.json").write_text(json.dumps(configuration))
        # Of two builds the one that runs on every processor; the package's own program is put there by a script.
        program = max(folder.glob("node_modules/opencode-*/bin/opencode"))
        quiet = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
        return Command([str(program), "run", "--format", "json", TASK], quiet)

    return command


def qwen_code(folder: Path, _: Home, settings: str) -> Command:
    node = next(map(str, folder.glob("node_modules/node-*/bin/node")), "node")
    script = f"{folder}/node_modules/@qwen-code/qwen-code/cli-entry.js"
    argv = [node, script, "--approval-mode", "yolo", "--output-format", "stream-json", "-p", TASK]
    return Command(argv, {"QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"}, settings)


def openai_agents(api: str, way: str) -> Callable[[Path, Home, str], Command]:
    def command(folder: Path, _: Home, settings: str) -> Command:
        argv = [f"{folder}/bin/python", str(HERE / "with_openai_agents.py"), api, way, TASK]
        return Command(argv, settings=settings)

    return command


def aider(folder: Path, _: Home, settings: str) -> Command:
    argv = [f"{folder}/bin/aider", "--edit-format", "whole", "--no-git", "--yes-always", "--message", TASK, NAME]
    quiet = {"AIDER_ANALYTICS": "false", "AIDER_CHECK_UPDATE": "false", "AIDER_SHOW_RELEASE_NOTES": "false"}
    return Command(argv, {**quiet, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}, settings)


def aider_heard(ran: Ran, home: Home) -> list[Any]:
    history = (home.work / ".aider.chat.history.md").read_text()
    return [re.sub(r"started at .*", "started", history), *ran.out.splitlines()]


def mini_swe_agent(folder: Path, home: Home, settings: str) -> Command:
    argv = [f"{folder}/bin/mini", "-y", "--exit-immediately", "-t", TASK, "-o", f"{home.root}/trajectory.json"]
    return Command(argv, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}, settings)


def mini_swe_agent_heard(_: Ran, home: Home) -> list[Any]:
    trajectory: dict[str, Any] = json.loads((home.root / "trajectory.json").read_text())
    return [steady(message) for message in trajectory["messages"]]


CLIENTS = (
    Client("claude-code", "messages", "claude", claude_code, lines),
    Client("claude-code", "messages", "claude", bare_claude_code, lines, aside=("HEAD /api/hello",), how="bare"),
    Client("codex", "responses", "codex", codex, lines),
    Client(
        "opencode",
        "chat",
        "opencode",
        opencode("@ai-sdk/openai-compatible"),
        lines,
        aside=("POST /v1/chat/completions",),
    ),
    Client("opencode", "responses", "opencode", opencode("@ai-sdk/openai"), lines, aside=("POST /v1/responses",)),
    Client("opencode", "messages", "opencode", opencode("@ai-sdk/anthropic"), lines, aside=("POST /v1/messages",)),
    Client("openai-agents", "chat", "openai", openai_agents("chat", "stream"), joined),
    Client("openai-agents", "chat", "openai", openai_agents("chat", "whole"), lines, how="whole"),
    Client("openai-agents", "responses", "openai", openai_agents("responses", "stream"), joined),
    Client("openai-agents", "responses", "openai", openai_agents("responses", "whole"), lines, how="whole"),
    Client("qwen-code", "chat", "qwen-code", qwen_code, lines),
    Client("aider", "chat", "aider", aider, aider_heard, turns=1, in_text=True),
    Client("mini-swe-agent", "chat", "mini-swe-agent", mini_swe_agent, mini_swe_agent_heard, how="whole", submits=True),
)
"""In the order of the table."""


def program(client: Client, home: Home, settings: str) -> Command:
    """Raises NotInstalled."""
    return client.command(place(client.name), home, settings)
