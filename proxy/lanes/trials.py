"""Small requests that show what a lane does, as against what its names promise.

Must not: send anything of a client, or ask for more than a few dozen tokens at once.
Invariant: a capability is claimed by what came back; a server that accepts a field and ignores it gains nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.lanes.asking import Asker, Unanswered
from proxy.lanes.capabilities import ErrorFrame
from proxy.lanes.exposition import Exposition
from proxy.lanes.heard import Heard, Said, hear, told
from proxy.lanes.identity import Identity, scrape
from proxy.lanes.teacher import SCORERS, score

ANSWER_TOKENS = 32
ASKED = "Write the line `the quick brown fox jumps over the lazy dog` four times, one below the other, nothing else."
"""Repetition invites every kind of drafter."""
COUNTING = "Count from 1 to 40, separated by commas, and write nothing else."
BEGUN = "1, 2, 3, 4, 5, 6, 7,"
NEXT = "8"
BEGUN_TOKENS = 12
"""Of the continuation: fewer than what was begun has, in any tokenizer, so that it cannot be said anew."""
AGAIN = " 1, 2, 3, 4, 5, 6, 7,"
SLACK = 2
"""Tokens by which counts may be off where pieces of text are joined; a turn that is closed and begun anew costs 3 and
more in the chat templates of ChatML, Llama 3 and Gemma."""
PREFIX_WORDS = 1500
"""Longer than a cache block of hybrid models in vLLM, which may have more than 1,000 tokens."""
EXTRA_FIELDS: dict[str, Any] = {"return_token_ids": True, "timings_per_token": True}
LOGPROB_FIELDS: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
USAGE_FIELDS: dict[str, Any] = {"stream_options": {"include_usage": True}}
REFUSALS = (400, 422)


@dataclass(frozen=True, slots=True)
class Verdict:
    """value: what was seen. why: why it is not more, "" = nothing to explain."""

    value: Any
    why: str = ""


def body_for(model: str, text: str, tokens: int, **fields: Any) -> dict[str, Any]:
    """A greedy request with one user message."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": tokens,
        **fields,
    }


async def try_stream(asker: Asker, identity: Identity) -> tuple[Heard, Exposition | None, dict[str, str]]:
    """An answer with everything in it that can be asked for; metrics as they are after it; what was refused."""
    base = body_for(identity.model, ASKED, ANSWER_TOKENS)
    groups = [EXTRA_FIELDS, LOGPROB_FIELDS, USAGE_FIELDS]
    refused: dict[str, str] = {}
    while True:
        try:
            heard = await hear(asker, base | {name: value for group in groups for name, value in group.items()})
            break
        except Unanswered as error:
            if error.status not in REFUSALS or not groups:
                raise
            named = (group for group in groups if any(name in error.told for name in group))
            dropped = next(named, groups[0])
            groups.remove(dropped)
            for name in dropped:
                refused[name] = f"the server refuses the field ({error.told or error})"
    return heard, await scrape(asker, {}), refused


def judge_ids(heard: Heard, refused: Mapping[str, str]) -> Verdict:
    """Whether token ids came, as many as there are tokens."""
    count = heard.completion_tokens
    if not heard.token_ids:
        return Verdict(False, refused.get("return_token_ids", "no ids came, though they were asked for"))
    if count is not None and abs(len(heard.token_ids) - count) > 1:
        return Verdict(False, f"{len(heard.token_ids)} ids came for {count} tokens")
    return Verdict(True)


def judge_logprobs(heard: Heard, refused: Mapping[str, str], accepted: int) -> tuple[Verdict, Verdict]:
    """Whether log-probabilities came, and whether they were real while drafts were accepted (None: none were)."""
    if not heard.logprobs:
        why = refused.get("logprobs", "none came, though they were asked for")
        return Verdict(False, why), Verdict(None, why)
    count = heard.completion_tokens or 0
    few = f"{len(heard.logprobs)} came for {count} tokens" if 2 * len(heard.logprobs) < count else ""
    if not accepted:
        return Verdict(not few, few), Verdict(None, few or "no draft was accepted while they were looked at")
    if few:  # llama.cpp streams them for the tokens that no draft had
        return Verdict(True), Verdict(False, few)
    if made_up(heard.logprobs):
        return Verdict(True), Verdict(False, "with accepted drafts all are exactly 0, without alternatives")
    return Verdict(True), Verdict(True)


def made_up(logprobs: list[Said]) -> bool:
    """llama.cpp reports 0.0 and no alternatives for every token of an accepted draft (issue 27972)."""
    empty = sum(said.logprob == 0.0 and said.alternatives == 0 for said in logprobs)
    return empty >= 2 and 2 * empty >= len(logprobs)


def judge_drafts(heard: Heard, before: Exposition | None, after: Exposition | None) -> tuple[str, int]:
    """Where drafts are told, and how many were accepted meanwhile (by others too, where metrics tell it)."""
    drafted, accepted = heard.timings.get("draft_n"), heard.timings.get("draft_n_accepted")
    if isinstance(drafted, int) and isinstance(accepted, int) and 0 <= accepted <= drafted:
        return "timings", accepted
    if after is None or not after.tells_drafts:
        return "none", 0
    if before is not None and after.tells("accepted"):
        return "metrics", int(after.grown("accepted", before))
    return "metrics", int(any(rate > 0 for rate in after.gauges.get("rate", ())))


async def try_prefill(asker: Asker, identity: Identity) -> Verdict:
    """Whether a trailing assistant message is continued, by the text and by the number of prompt tokens."""
    fields: dict[str, Any] = {}
    if identity.kind != "openai":
        fields["chat_template_kwargs"] = {"enable_thinking": False}
    alone = body_for(identity.model, COUNTING, 1, **fields)
    if identity.kind in ("vllm", "sglang"):
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    begun = body_for(identity.model, COUNTING, BEGUN_TOKENS, **fields)
    begun["messages"] = [*begun["messages"], {"role": "assistant", "content": BEGUN}]
    if identity.kind == "llamacpp" and await _ends_prompt(asker, begun):
        return Verdict(True)
    longer = begun | {"max_tokens": 1}
    longer["messages"] = [*alone["messages"], {"role": "assistant", "content": BEGUN + AGAIN}]
    try:
        answer = await told(asker, begun)
        counts = [(await told(asker, body)).prompt_tokens for body in (alone, longer)]
    except Unanswered as error:
        return Verdict(False, error.told or str(error))
    return judge_prefill(answer.content or answer.text, counts[0], answer.prompt_tokens, counts[1])


async def _ends_prompt(asker: Asker, begun: dict[str, Any]) -> bool:
    """Whether the prompt ends with what was begun, as the server itself writes it. llama.cpp puts an empty block of
    thinking before it, which counts, and says it again at the beginning of its answer; both would mislead."""
    try:
        prompt = (await asker.post("/apply-template", begun)).get("prompt")
    except Unanswered:
        return False
    return isinstance(prompt, str) and prompt.rstrip().endswith(BEGUN)


def judge_prefill(text: str, alone: int | None, begun: int | None, longer: int | None) -> Verdict:
    """Prompt tokens without a begun answer, with it, and with one about twice as long; None = not told."""
    if text.strip().startswith(BEGUN):  # no model says it anew in so few tokens: it is sent back, as by llama.cpp
        return Verdict(True)
    said = re.search(r"\d+", text)
    first = said[0] if said else ""
    if alone is not None and begun is not None and longer is not None:
        each = longer - begun
        if begun <= alone or each <= 0:
            return Verdict(False, "what was begun is dropped from the prompt")
        if (closing := begun - alone - each) > SLACK:
            return Verdict(False, f"the turn that was begun is closed and another one opened ({closing} tokens more)")
        if first != "1":
            return Verdict(True)
    if first == NEXT:
        return Verdict(True)
    if first == "1":
        return Verdict(False, "what was begun is begun anew, not continued")
    return Verdict(False, "the answer does not go on with 8, and prompt tokens are not told")


async def try_error(asker: Asker, identity: Identity) -> Verdict:
    """A request that must fail, for nothing: some servers refuse it inside the stream. Others do so before it, and
    nobody knows how their streams fail until one does."""
    body = body_for(identity.model, "hello", 1, temperature=-1.0, top_p=7.0)
    try:
        heard = await hear(asker, body)
    except Unanswered as error:
        early = f"what can be provoked is refused before the stream begins ({error.status})"
        return Verdict("unknown", early if error.status else str(error))
    frame: ErrorFrame = "unknown"
    if heard.errors:
        frame = "error_object"
    elif not heard.ended and not heard.chunks:
        frame = "closes"
    return Verdict(frame, "" if frame != "unknown" else "what should be refused is answered")


async def try_cache(asker: Asker, identity: Identity) -> tuple[Verdict, Verdict]:
    """Whether a salt keeps prefixes apart, and where hits of the prefix cache are told."""
    nonce = secrets.token_hex(8)
    words = " ".join(f"{nonce[i % 16]}{i}" for i in range(PREFIX_WORDS // 3))
    body = body_for(identity.model, f"{words}\nAnswer with one word.", 1)
    refused, own = "", {"cache_salt": nonce}
    try:
        try:
            await _hits(asker, body | own)
        except Unanswered as error:
            if error.status not in REFUSALS:
                raise
            refused, own = error.told or str(error), {}  # hits are told by servers without salts too
            await _hits(asker, body)
        warm, where = await _hits(asker, body | own)
        if refused:
            return Verdict(False, refused), Verdict(where) if warm else Verdict("none", _untold(warm))
        if warm:
            other, _ = await _hits(asker, body | {"cache_salt": f"{nonce}-other"})
            apart = other is not None and 2 * other < warm
            return Verdict(apart, "" if apart else f"{other} tokens are shared between two salts"), Verdict(where)
    except Unanswered as error:
        return Verdict(False, error.told or str(error)), Verdict("none", str(error))
    return await _salt_is_known(asker, body, _untold(warm)), Verdict("none", _untold(warm))


def _untold(warm: int | None) -> str:
    return "nothing tells of hits of the prefix cache" if warm is None else "the same prompt again was no hit"


async def _hits(asker: Asker, body: Mapping[str, Any]) -> tuple[int | None, str]:
    before = await scrape(asker, {})
    heard = await told(asker, body)
    if heard.cached_tokens is not None and heard.cached_tokens[0]:
        return heard.cached_tokens
    after = await scrape(asker, {})
    if after is not None and before is not None and after.tells("prefix_hits"):
        return int(after.grown("prefix_hits", before)), "metrics"
    return heard.cached_tokens or (None, "none")


async def _salt_is_known(asker: Asker, body: Mapping[str, Any], untold: str) -> Verdict:
    """Whether the field is read at all: a value of a wrong type is refused by its name."""
    try:
        await told(asker, {**body, "cache_salt": {"not": "a string"}})
    except Unanswered as error:
        if error.status in (400, 422) and "cache_salt" in error.told:
            return Verdict(True, f"{untold}; the field is read, its effect was not seen")
        return Verdict(False, error.told or str(error))
    return Verdict(False, f"{untold}, and the field is ignored")


async def try_scores(asker: Asker, identity: Identity, heard: Heard) -> Verdict:
    """Whether given tokens are scored: those of the first trial's prompt."""
    if identity.kind not in SCORERS:
        return Verdict(False, f"a server of kind {identity.kind} scores no given tokens")
    ids = heard.prompt_ids or await _tokens(asker, identity)
    if len(ids) < 3:
        return Verdict(False, "the prompt's token ids are not told")
    try:
        scores = await score(asker, identity.kind, identity.model, ids, 1)
    except Unanswered as error:
        return Verdict(False, error.told or str(error))
    if any(each.logprob > 1e-3 or each.best_logprob > 1e-3 for each in scores):
        return Verdict(False, "it gives log-probabilities above 0")
    return Verdict(True)


async def _tokens(asker: Asker, identity: Identity) -> list[int]:
    try:
        tokens = (await asker.post("/tokenize", {"model": identity.model, "prompt": COUNTING})).get("tokens")
    except Unanswered:
        return []
    return [each for each in tokens if isinstance(each, int)] if isinstance(tokens, list) else []
