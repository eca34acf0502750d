"""Is a lane's server poisoned? Asked by one short request that has nothing to do with what tripped.

Must not: judge how good an answer is; only whether there is one at all, or one token without end.
Invariant: the request shares no prefix with anything, so what it shows is the server's state and not a cache's.

Servers whose numbers have become NaN say one token for ever (`!!!!` is token 0 of many vocabularies, `////` token 14 of
Qwen's), to every request and until they are restarted, while every health check is green: ggml-org/llama.cpp#23577,
#23606, #22230; sgl-project/sglang#36537. A fall back on such a server helps nobody.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from proxy.lanes.asking import Asker, Target, Unanswered
from proxy.lanes.heard import Heard, hear

log = structlog.get_logger()
TOKENS = 24
SAME = 8
"""So many times the same token and nothing else is no answer to a question."""
SECONDS = 30.0
State = Literal["sound", "poisoned", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """why: what was seen, with the remedy where there is one. Without the model's words."""

    state: State
    why: str = ""


def judge(heard: Heard) -> Verdict:
    """Of what one short question brought back."""
    ids, text = heard.token_ids, "".join(heard.text.split())
    if _is_stuck(ids):
        return Verdict("poisoned", f"it says token {ids[-1]} and nothing else; {REMEDY}")
    if _is_stuck(text):
        return Verdict("poisoned", f"it says one character again and again; {REMEDY}")
    if heard.errors and not text:
        return Verdict("unknown", "its stream holds an error and no answer")
    if not text and len(ids) < SAME:
        return Verdict("unknown", "it says nothing at all")
    return Verdict("sound")


def _is_stuck(said: Sequence[object]) -> bool:
    """One thing from the beginning on, or for so long at the end that no sentence could."""
    run = next((length for length, one in enumerate(reversed(said)) if one != said[-1]), len(said))
    return run >= SAME and (run == len(said) or run >= 2 * SAME)


REMEDY = "restart that server: it answers every request so until then"


class PoisonCheck:
    """Asks lanes by name. last: what was found of each."""

    def __init__(self, lanes: Mapping[str, tuple[Target, str]]) -> None:
        self._lanes = dict(lanes)
        self.last: dict[str, Verdict] = {}

    def renew(self, lane: str, target: Target, model: str) -> None:
        """Its server was begun anew: what was found of the one before says nothing of it."""
        self._lanes[lane] = target, model
        self.last.pop(lane, None)

    async def ask(self, lane: str) -> Verdict:
        """lane: one of those given. A server that does not answer in time is not called poisoned: it may be busy."""
        target, model = self._lanes[lane]
        nonce = secrets.token_hex(6)
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"[{nonce}] Say in one sentence what a lighthouse is for."}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "stream_options": {"include_usage": True},
        }
        try:
            async with Asker(target, SECONDS) as asker:
                verdict = judge(await _with_ids(asker, body))
        except Unanswered as error:
            verdict = Verdict("unknown", str(error))
        if (verdict.state == "poisoned" and self.last.get(lane, verdict) != verdict) or lane not in self.last:
            (log.error if verdict.state == "poisoned" else log.info)(
                "lane.checked", lane=lane, state=verdict.state, why=verdict.why or None
            )
        self.last[lane] = verdict
        return verdict


async def _with_ids(asker: Asker, body: Mapping[str, Any]) -> Heard:
    """With token ids where the server does not refuse the field: what its parser swallows is seen by them alone."""
    try:
        return await hear(asker, {**body, "return_token_ids": True})
    except Unanswered as error:
        if error.status not in (400, 422):
            raise
        return await hear(asker, body)
