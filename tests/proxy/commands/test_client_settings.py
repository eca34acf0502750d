"""Settings can be used as they are printed: by a shell, a TOML parser and a JSON parser, whatever the names are."""

from __future__ import annotations

import json
import subprocess
import tomllib

import pytest

from proxy.commands.client_settings import CLIENTS, Endpoint, codex, opencode

ODD = Endpoint("http://127.0.0.1:9000", "a \"b\" $HOME `id` 'c'", 4096, "k$y 'x'")


@pytest.mark.parametrize(
    ("client", "url", "key", "model"),
    [
        ("claude", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL"),
        ("openai", "OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"),
        ("qwen-code", "OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"),
        ("aider", "AIDER_OPENAI_API_BASE", "AIDER_OPENAI_API_KEY", "AIDER_MODEL"),
        ("mini-swe-agent", "OPENAI_BASE_URL", "OPENAI_API_KEY", "MSWEA_MODEL_NAME"),
    ],
)
def test_a_shell_takes_every_value_as_it_is(client: str, url: str, key: str, model: str) -> None:
    shown = subprocess.run(
        ["/bin/sh", "-c", f"{CLIENTS[client](ODD)}\nenv -0"], capture_output=True, text=True, check=True, env={}
    )
    values = dict(line.split("=", 1) for line in shown.stdout.split("\0") if "=" in line)
    assert values[url] == ODD.url + ("" if client == "claude" else "/v1")
    assert (values[key], values[model].removeprefix("openai/")) == (ODD.key, ODD.model)


def test_claude_code_is_kept_from_sending_a_key_that_is_for_somebody_else() -> None:
    told = f"{CLIENTS['claude'](ODD)}\nenv"
    shown = subprocess.run(
        ["/bin/sh", "-c", told], capture_output=True, text=True, check=True, env={"ANTHROPIC_API_KEY": "sk-ant-real"}
    )
    assert "ANTHROPIC_AUTH_TOKEN" in shown.stdout and "sk-ant-real" not in shown.stdout


def test_codex_gets_toml_with_the_responses_api() -> None:
    settings = tomllib.loads(codex(ODD))
    assert (settings["model"], settings["model_context_window"]) == (ODD.model, 4096)
    provider = settings["model_providers"][settings["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{ODD.url}/v1", "responses")


def test_opencode_gets_json_with_the_models_limits() -> None:
    settings = json.loads(opencode(ODD))
    provider = settings["provider"]["specguard"]
    assert settings["model"] == f"specguard/{ODD.model}"
    assert provider["options"] == {"baseURL": f"{ODD.url}/v1", "apiKey": ODD.key}
    assert provider["models"][ODD.model]["limit"] == {"context": 4096, "output": 2048}


def test_every_client_has_settings() -> None:
    assert set(CLIENTS) == {"claude", "codex", "opencode", "openai", "qwen-code", "aider", "mini-swe-agent"}
    assert all(ODD.url in settings(ODD) for settings in CLIENTS.values())
