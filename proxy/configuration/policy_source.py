"""Where a policy comes from: the file that the configuration names, or the shipped one.

Must not: decide what is allowed in a file. Invariant: a problem names the file, the key and the remedy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from policies.overrides import Overrides, effective
from policies.policy import Policy
from policies.rule_file import PolicyFile, PolicyProblem, parse
from proxy.configuration.config import ConfigProblem, Guard
from proxy.configuration.files import text_of


def load_policy(guard: Guard) -> tuple[Policy, Overrides]:
    """The policy of a server, and what is different for some requests. Raises ConfigProblem."""
    return effective(read_policy(Path(guard.policy)) if guard.policy else None, guard.quick())


def read_policy(path: Path) -> PolicyFile:
    """Raises ConfigProblem, one line for each thing that is wrong."""
    try:
        return parse(text_of(path, " (guard.policy)"))
    except PolicyProblem as problem:
        raise ConfigProblem("\n".join(f"{path}: {line}" for line in str(problem).split("\n"))) from None


def policy_sha256(policy: Policy, overrides: Overrides) -> str:
    """Of all that it says: equal for two servers that decide the same."""
    return hashlib.sha256(repr((policy, policy.rules, overrides)).encode("utf-8", "surrogatepass")).hexdigest()
