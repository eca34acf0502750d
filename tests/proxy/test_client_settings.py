"""Settings can be used as they are printed: by a shell, a TOML parser and a JSON parser, whatever the names are."""

from __future__ import annotations

import json
import subprocess
import tomllib

import pytest

from proxy.client_settings import CLIENTS, Endpoint, claude, codex, openai, opencode

ODD = Endpoint("http://127.0.0.1:9000", "a \"b\" $HOME `id` 'c'", 4096, "k$y 'x'")


@pytest.mark.parametrize("settings", [claude, openai])
def test_a_shell_takes_every_value_as_it_is(settings: object) -> None:
    assert callable(settings)
    shown = subprocess.run(
        ["/bin/sh", "-c", f"{settings(ODD)}\nenv -0"], capture_output=True, text=True, check=True, env={}
    )
    values = dict(line.split("=", 1) for line in shown.stdout.split("\0") if "=" in line)
    names = ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL")
    if settings is openai:
        names = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL")
    assert values[names[0]].removesuffix("/v1") == ODD.url
    assert (values[names[1]], values[names[2]]) == (ODD.key, ODD.model)


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
    assert set(CLIENTS) == {"claude", "codex", "opencode", "openai"}
    assert all(ODD.url in settings(ODD) for settings in CLIENTS.values())
