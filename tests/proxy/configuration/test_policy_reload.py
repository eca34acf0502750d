"""A policy file that is taken up, refused, or the same; over a real process: `tests/test_signals.py`."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from proxy.configuration.policy_reload import reload_policy
from tests.proxy.live import serving


async def test_a_file_is_taken_up_or_refused_and_what_is_set_beside_it_stays(tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text("max_rewinds = 1\nsession_rewinds = 5\n")
    async with serving("fine", guard={"policy": str(policy), "session_rewinds": 7}) as live:
        service, before = live.service, live.service.origin
        running = service.policy
        assert (running.max_rewinds, running.session_rewinds) == (1, 7)
        with capture_logs() as logs:
            assert await reload_policy(service)
            policy.write_text("max_rewinds = 2\n")
            assert await reload_policy(service)
        assert [(line["event"], line["changed"]) for line in logs] == [
            ("policy.reloaded", False),
            ("policy.reloaded", True),
        ]
        assert (service.policy.max_rewinds, service.policy.session_rewinds, running.max_rewinds) == (2, 7, 1)
        after = service.origin
        assert (after.policy, after.config_sha256) == (before.policy, before.config_sha256)
        assert after.policy_sha256 != before.policy_sha256

        policy.write_text("max_rewinds = 99\n")
        with capture_logs() as logs:
            assert not await reload_policy(service)
        assert (logs[0]["event"], logs[0]["stays"]) == ("policy.refused", after.policy_sha256)
        assert "max_rewinds" in logs[0]["reason"]
        assert service.origin == after


async def test_overrides_and_what_replays_go_by_are_taken_up_too(tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text("max_rewinds = 1\n")
    async with serving("fine", guard={"policy": str(policy)}) as live:
        service = live.service
        assert service.replays is not None and not service.overrides.overrides
        policy.write_text('hold_call_chars = 2048\n[[override]]\nname = "calm"\nmax_rewinds = 2\n')
        assert await reload_policy(service)
        assert [each.name for each in service.overrides.overrides] == ["calm"]
        assert service.replays._settings.call_chars == 2048


async def test_the_shipped_policy_can_be_read_again() -> None:
    async with serving("fine") as live:
        before = live.service.origin
        assert await reload_policy(live.service)
        assert live.service.origin == before
