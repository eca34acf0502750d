"""Configuration: precedence, complete defaults, and errors that name the key and the remedy."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from policies.policy import Policy
from policies.rule_file import shipped
from proxy.configuration.config import Config, ConfigProblem, config_sha256, is_loopback
from proxy.configuration.sources import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "config.example.toml"


def written(folder: Path, text: str) -> Path:
    file = folder / "specguard.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problem(folder: Path, text: str = "", environment: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(ConfigProblem) as caught:
        load(written(folder, text), environment or {}, flags)
    return str(caught.value)


def test_the_example_holds_every_key_with_its_default() -> None:
    """A key of `guard` that has none stands there as a comment: the policy says it, and the shipped one says this."""
    text = EXAMPLE.read_text(encoding="utf-8")
    said = re.sub(r"(?m)^# ([a-z_]+ = )", r"\1", text)
    shown, known = tomllib.loads(said), Config().model_dump()
    assert {name: sorted(value) for name, value in shown.items() if isinstance(value, dict)} == {
        name: sorted(value) for name, value in known.items() if isinstance(value, dict)
    }
    assert sorted(shown) == sorted(known)
    assert load(EXAMPLE, {}, {}) == Config()
    quick = Config.model_validate(shown).guard.quick()
    assert quick == {name: getattr(Policy(), name) for name in quick}
    assert set(quick) == set(Config().guard.model_dump()) - {"policy"} == set(shipped().settings)


def test_nothing_given_is_the_default() -> None:
    assert load(None, {}, {}) == Config()


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nport = 1\nkeepalive_s = 1\n[log]\nlevel = 'debug'")
    environment = {"SPECGUARD_SERVER__PORT": "2", "SPECGUARD_SERVER__KEEPALIVE_S": "2.5"}
    config = load(file, environment, {"server.port": 3, "server.host": None})
    assert (config.server.port, config.server.keepalive_s, config.log.level) == (3, 2.5, "debug")
    assert config.server.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "value"),
    [('["a", "b"]', ("a", "b")), ("['one']", ("one",))],
)
def test_the_environment_speaks_toml(text: str, value: tuple[str, ...]) -> None:
    assert load(None, {"SPECGUARD_SERVER__KEYS": text}, {}).server.keys == value


def test_plain_words_need_no_quotes_in_the_environment() -> None:
    environment = {"SPECGUARD_DECODE__MODE": "ngram", "SPECGUARD_MODEL__ANY_NAME": "true", "SPECGUARD_HOME": "ignored"}
    config = load(None, environment, {})
    assert (config.decode.mode, config.model.any_name) == ("ngram", True)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\nprot = 1", ["server.prot", "did you mean 'port'?"]),
        ("[server]\nzzz = 1", ["server.zzz", "known keys: host, port"]),
        ("[sever]\nport = 1", ["sever", "did you mean 'server'?"]),
        ("[server]\nport = 'http'", ["server.port", "integer"]),
        ("[server]\nport = 70000", ["server.port", "65535"]),
        ("[model]\ndtype = 'fp8'", ["model.dtype", "'auto', 'float32' or 'bfloat16'"]),
        ("[guard]\naction = 'warn'", ["guard.action", "'enforce' or 'observe'"]),
        ("[decode]\nmode = 'warp'", ["decode.mode", "warp"]),
        ("server = 3", ["server"]),
        ("[server", ["specguard.toml: cannot be read as TOML"]),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = problem(tmp_path, text)
    assert all(part in message for part in parts), message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = problem(tmp_path, "[server]\nport = -1\n[decode]\naudit_every = -1")
    assert "server.port" in message and "decode.audit_every" in message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblem, match=r"nowhere\.toml: there is no such file"):
        load(tmp_path / "nowhere.toml", {}, {})


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblem, match="cannot be read"):
        load(tmp_path, {}, {})


def test_a_section_in_the_environment_that_is_a_value_in_the_file(tmp_path: Path) -> None:
    assert "plant" in problem(tmp_path, "plant = 'x'", {"SPECGUARD_PLANT__DEEP": "1"})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "example.org", "::"])
def test_an_open_door_needs_keys(tmp_path: Path, host: str) -> None:
    message = problem(tmp_path, f"[server]\nhost = '{host}'")
    assert "server.host" in message and "server.keys" in message
    assert load(None, {}, {"server.host": host, "server.keys": ["k"]}).server.host == host


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("Localhost.", True),
        ("a.localhost", True),
        ("localhost.example", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_what_is_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_configuration_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("text", ["3", "2026-01-02", "true", "[1]", '"3"'])
def test_a_text_in_the_environment_may_look_like_something_else(text: str) -> None:
    assert load(None, {"SPECGUARD_MODEL__NAME": text}, {}).model.name == text.strip('"')


def test_a_key_outside_all_sections_has_a_variable_too() -> None:
    assert load(None, {"SPECGUARD_PLANT": "verify-ignores-cache"}, {}).plant == "verify-ignores-cache"


def test_a_variable_without_its_section_is_not_ignored() -> None:
    with pytest.raises(ConfigProblem, match=r"SPECGUARD_PORT: .* did you mean SPECGUARD_SERVER__PORT"):
        load(None, {"SPECGUARD_PORT": "1"}, {})


@pytest.mark.parametrize("flags", [{}, {"server.port": 1}])
def test_a_value_in_place_of_a_section(tmp_path: Path, flags: dict[str, Any]) -> None:
    assert problem(tmp_path, "server = 3", **flags) == "server: is a section; write its keys below a line [server]"


def test_a_section_in_place_of_a_value(tmp_path: Path) -> None:
    message = problem(tmp_path, "[server]\nport = 3", {"SPECGUARD_SERVER__PORT__X": "1"})
    assert message == "server.port.x: there is no such key; server.port is a value"


@pytest.mark.parametrize("keys", [[""], ["good", " "], ["blank "]])
def test_a_key_that_is_none_opens_no_door(tmp_path: Path, keys: list[str]) -> None:
    message = problem(tmp_path, **{"server.host": "0.0.0.0", "server.keys": keys})
    assert message.startswith("server.keys: a key is empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nkeys = 'abc'", 'server.keys: is a list; write ["one", "two"]'),
        ("[model]\ndevice = 'tpu'", "model.device: 'tpu' is unknown; use cpu, cuda, cuda:N or mps"),
        ("[server]\ndrain_s = inf", "server.drain_s: Input should be a finite number"),
        ("[decode]\nseed = -2", "decode.seed: Input should be greater than or equal to -1"),
    ],
)
def test_mistakes_that_are_told_exactly(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path, text) == message


def test_a_key_that_was_renamed_says_so(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[incidents]\nkeep_prompts = true\n", encoding="utf-8")
    renamed = "incidents.keep_prompts: was renamed; write incidents.capture"
    with pytest.raises(ConfigProblem, match=renamed):
        load(file, {}, {})
    with pytest.raises(ConfigProblem, match=renamed):
        load(None, {"SPECGUARD_INCIDENTS__KEEP_PROMPTS": "true"}, {})


def test_the_hash_of_a_configuration_tells_what_it_does_and_no_keys() -> None:
    def hashed(**flags: object) -> str:
        return config_sha256(load(None, {}, {name.replace("__", "."): value for name, value in flags.items()}))

    assert hashed() == hashed(log__level="info") != hashed(guard__max_rewinds=3)
    assert hashed(server__keys=("one",)) == hashed(server__keys=("two",)) != hashed()


def test_a_cool_down_is_not_cut_short_in_silence() -> None:
    with pytest.raises(ConfigProblem, match="breaker: cool_down_s is 7200, more than most_cool_down_s, 3600"):
        load(None, {"SPECGUARD_BREAKER__COOL_DOWN_S": "7200"}, {})
    assert load(None, {}, {"breaker.cool_down_s": 7200.0, "breaker.most_cool_down_s": 7200.0}).breaker.cool_down_s
