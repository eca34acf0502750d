"""Takes up a changed policy file while the server runs.

Must not: take up anything else of the configuration, or touch a response that runs.
Invariant: a file that cannot be used changes nothing, and the log says why.
"""

from __future__ import annotations

import asyncio

import structlog

from proxy.configuration.config import ConfigProblem
from proxy.configuration.policy_source import load_policy
from proxy.server.service import Service

log = structlog.get_logger()


async def reload_policy(service: Service) -> bool:
    """Reads the file that `guard.policy` names again; what `[guard]` sets beside it stays. False = it was refused."""
    before = service.origin
    try:
        policy, overrides = await asyncio.to_thread(load_policy, service.config.guard)
    except ConfigProblem as problem:
        log.error("policy.refused", policy=before.policy, reason=str(problem), stays=before.policy_sha256)
        return False
    service.adopt(policy, overrides)
    now = service.origin
    changed = now.policy_sha256 != before.policy_sha256
    log.info(
        "policy.reloaded", policy=now.policy, sha256=now.policy_sha256, before=before.policy_sha256, changed=changed
    )
    return True
