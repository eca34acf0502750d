"""Reading the policy that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.overrides import Overrides
from policies.policy import Policy
from proxy.configuration.config import Config, ConfigProblem, Guard
from proxy.configuration.policy_source import load_policy, policy_sha256, read_policy


def test_no_file_is_the_shipped_policy() -> None:
    assert load_policy(Config().guard) == (Policy(), Overrides())


def test_a_file_and_quick_settings_on_top(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('max_rewinds = 1\nrepair = true\n[[override]]\nname = "x"\nmax_rewinds = 5\n', encoding="utf-8")
    policy, overrides = load_policy(Guard(policy=str(file), max_rewinds=0, action="observe"))
    assert (policy.max_rewinds, policy.repair, policy.action) == (0, True, "observe")
    assert overrides.apply(policy, overrides.overrides[0]).max_rewinds == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"repair = 1\nmax_rewind = 2", "policy.toml: repair: 1 is not true or false; write one"),
        (b"repair = 1\nmax_rewind = 2", "policy.toml: max_rewind: there is no such key; did you mean 'max_rewinds'?"),
        (b"\xff", "policy.toml: cannot be read"),
        (None, "policy.toml: there is no such file; name one that is there"),
    ],
)
def test_every_problem_names_the_file(tmp_path: Path, text: bytes | None, words: str) -> None:
    file = tmp_path / "policy.toml"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ConfigProblem) as caught:
        read_policy(file)
    assert words in str(caught.value)


def test_the_digest_follows_what_is_said(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    digests = set()
    for text in ("", "repair = true", '[[rule]]\nname = "x"\ndo = ["end"]', '[[override]]\nname = "x"'):
        file.write_text(text, encoding="utf-8")
        digests |= {policy_sha256(*load_policy(Guard(policy=str(file)))) for _ in range(2)}
    assert len(digests) == 4
    assert policy_sha256(*load_policy(Guard())) in digests
