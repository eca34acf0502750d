"""How to point a coding agent at a running server: what to export, or what to write into its configuration.

Must not: read or write anybody's configuration. Invariant: every line can be used as it is printed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

KEY = "SPECGUARD_KEY"
IDLE_MS = 600_000
"""A held tool call keeps a stream silent, but for keep-alives, which not every client counts as life."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """url: scheme, host and port, without a path. model: as the server names it. context: tokens. key: a server key,
    any word where none is asked for."""

    url: str
    model: str
    context: int
    key: str = "local"


def claude(to: Endpoint) -> str:
    """Shell lines for Claude Code. Sources: its documentation of gateways and environment variables.

    A key for Anthropic's own servers that is exported already would go to this one too (seen in 2.1.330).
    """
    return "unset ANTHROPIC_API_KEY\n" + _exports(
        {
            "ANTHROPIC_BASE_URL": to.url,
            "ANTHROPIC_AUTH_TOKEN": to.key,
            "ANTHROPIC_MODEL": to.model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": to.model,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(to.context),
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
            "ENABLE_TOOL_SEARCH": "false",
        }
    )


def codex(to: Endpoint) -> str:
    """TOML for ~/.codex/config.toml; Codex speaks the Responses API alone."""
    return f"""# ~/.codex/config.toml; then: export {KEY}={shlex.quote(to.key)}
model = {_toml(to.model)}
model_provider = "specguard"
model_context_window = {to.context}

[model_providers.specguard]
name = "specguard"
base_url = {_toml(f"{to.url}/v1")}
env_key = "{KEY}"
wire_api = "responses"
stream_idle_timeout_ms = {IDLE_MS}"""


def opencode(to: Endpoint) -> str:
    """JSON for opencode.json. The model's limits are needed, since opencode does not ask for them."""
    output = min(to.context // 2, 32_768)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "specguard",
        "options": {"baseURL": f"{to.url}/v1", "apiKey": to.key},
        "models": {to.model: {"name": to.model, "limit": {"context": to.context, "output": output}}},
    }
    settings = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"specguard": provider},
        "model": f"specguard/{to.model}",
    }
    return json.dumps(settings, indent=2, ensure_ascii=False)


def openai(to: Endpoint) -> str:
    """Shell lines that the OpenAI SDKs and most agents with a base URL read."""
    return _exports({"OPENAI_BASE_URL": f"{to.url}/v1", "OPENAI_API_KEY": to.key, "OPENAI_MODEL": to.model})


def qwen_code(to: Endpoint) -> str:
    """Shell lines for Qwen Code. Without the kind of access it would ask for a login."""
    return f"{openai(to)}\n{_exports({'QWEN_DEFAULT_AUTH_TYPE': 'openai'})}"


def aider(to: Endpoint) -> str:
    """Shell lines for aider, which looks up a model's provider by the first part of its name."""
    return _exports(
        {
            "AIDER_MODEL": f"openai/{to.model}",
            "AIDER_OPENAI_API_BASE": f"{to.url}/v1",
            "AIDER_OPENAI_API_KEY": to.key,
            "AIDER_SHOW_MODEL_WARNINGS": "false",
        }
    )


def mini_swe_agent(to: Endpoint) -> str:
    """Shell lines for mini-swe-agent, which stops at a model whose price it does not know unless told otherwise."""
    return _exports(
        {
            "MSWEA_CONFIGURED": "true",
            "MSWEA_MODEL_NAME": f"openai/{to.model}",
            "MSWEA_COST_TRACKING": "ignore_errors",
            "OPENAI_BASE_URL": f"{to.url}/v1",
            "OPENAI_API_KEY": to.key,
        }
    )


CLIENTS: Mapping[str, Callable[[Endpoint], str]] = {
    "claude": claude,
    "codex": codex,
    "opencode": opencode,
    "openai": openai,
    "qwen-code": qwen_code,
    "aider": aider,
    "mini-swe-agent": mini_swe_agent,
}


def _exports(values: Mapping[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def _toml(text: str) -> str:
    """A basic string: JSON escapes are TOML's, but for the one character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
