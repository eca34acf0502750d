"""Under which salt a response begins on the plain lane while the fast one is out of service.

Must not: send anything, or keep more than MOST sessions.
Invariant: the first response of a session that begins there takes over no prefix that anybody has left before; the
next ones take over its own, until the fast lane serves again or something trips.

A lane that is out of service may have damaged a prefix cache that both share (one server, a cache behind several). A
fresh salt for every request would heal that too, but then an agent's whole history is read anew at each turn.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

MOST = 4096


def salt_of(salt: str, owner: str) -> str:
    """Of one client's prefixes: whoever shares a cache can tell by the time that a prompt takes what others have asked.
    owner: "" = there is but one."""
    return hashlib.sha256(f"{salt}\0{owner}".encode()).hexdigest()[:32] if salt and owner else salt


def fresh_salt() -> str:
    """That nobody has had."""
    return secrets.token_hex(8)


class CleanStarts:
    """owner: whose key a request came with; session: "" = none, which keeps nothing."""

    def __init__(self) -> None:
        self._salts: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._salts)

    def take(self, owner: str, session: str) -> tuple[str, bool]:
        """The salt of a response that begins on the plain lane, and whether it is a new one."""
        if not session:
            return fresh_salt(), True
        key = owner, session
        known = self._salts.get(key)
        salt = self._salts[key] = known or fresh_salt()
        self._salts.move_to_end(key)
        while len(self._salts) > MOST:
            self._salts.popitem(last=False)
        return salt, known is None

    def served(self, owner: str, session: str) -> None:
        """By the fast lane; the next time that it is out of service is another one."""
        self._salts.pop((owner, session), None)

    def tripped(self, session: str) -> None:
        """What was begun cleanly may be damaged now."""
        for key in [key for key in self._salts if key[1] == session]:
            del self._salts[key]
