"""Engine faults that can be planted on purpose, for tests, the demo and qualification.

Must not: be reachable by a client's request; only whoever starts the engine can plant one.
Invariant: without a planted fault no code path that one takes is taken.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """VERIFY_IGNORES_CACHE: a decode call with more than one real row sees, in full-attention layers, only the rows
    of its own block and not the cached context. The fault of vLLM #40831 (cause: #40880): draft and verification
    then agree on tokens that the context does not support, and every health light stays green.

    KEYS_SCALED: keys of decoded tokens stand in the cache 5 % too large, as a scale that is applied twice leaves them.
    Plain decoding reads the same cache, so an audit sees nothing.
    TILE_LOST: after prefill, the values of the prompt's last tile are zero in every layer, as with a page that was
    given away too early. Once per turn; what is rebuilt is sound.
    NAN_AT_POSITION: the logits of one generated token are all NaN, once per turn (llama.cpp #23606).
    ARGMAX_ACCEPTANCE: a verify step takes the most likely tokens at any temperature (fastllm #728): drafts are
    accepted far too often and the text is not what sampling would have given.

    REJECTED_DRAFTS_KEPT: slots of rejected drafts are taken to be full, so the rows that come in their places are not
    stored and later rows attend to what was rejected: a sequence whose rejected cells are never removed (llama.cpp's
    `seq_rm`), or are removed one row short.
    RECURRENT_NOT_ROLLED_BACK: the recurrent states and convolution tails take in all rows of a verify step, the
    rejected ones too (fak #11112: silent, ends in runs of "!"; SGLang #35150).
    STALE_RECURRENT_SLOT: after a verify step with accepted drafts the next step begins on the recurrent state behind
    its first row (vLLM #39273, #40738: block[0] is read in place of block[num_accepted - 1]).
    FAR_CONTEXT: VERIFY_IGNORES_CACHE, but only beyond FAR tokens of context (vLLM #52475: prompts of 8k tokens fail,
    short ones never).
    POISONED_PREFIX: what is kept of a turn that has speculated is wrong (vLLM #53912, #48375: recurrent states of
    drafted tokens get into the prefix cache, and all who take it over are wrong until the server restarts). A cold
    start and whatever was never speculated on are sound.
    FLIPPED_ARGUMENT: once a turn, inside an argument of a tool call, a verify step takes the runner-up in place of the
    token that its row has chosen (vLLM #56077, #39598: arguments change under speculation, the call stays well-formed).
    DEAD_DRAFTER: nothing that is drafted is ever right (vLLM #55357: some 2,000 drafted tokens, none accepted). It
    costs speed only.
    STEP_HANGS: a step does not return, once a turn (llama.cpp #23268, #25819: no token comes, the device is busy).
    WORKER_DIES: the thread that owns the device ends in a step, not with an ordinary error (vLLM #40756, #50021: the
    engine dies of an illegal memory access, and what waits for it waits for ever).

    Four strike compressed caches only (engine.planted_codecs), so `plain/full` cures them:
    KEYS_UNROTATED: keys are coded without the rotation that readers expect (llama.cpp #25725: rows written by another
    path than the cache's own; acceptance fell from 99 % to 0).
    CODES_SCALED: the stored scale of coded keys is 5 % too large, as one that is applied twice, or sigma 1/sqrt(2d) in
    place of 1/sqrt(d) (review of lmdeploy #4510), leaves it.
    VALUES_HALVED: the second half of every coded value reads as zero in steps of a single row (TheTom #99: the kernel
    of batch 1 consumed 4 of 8 elements; perplexity, computed in batches, did not notice).
    CODES_DAMAGED: once a turn, a twentieth of the committed codes is overwritten at random, as by rows of another
    sequence in a page that was given away too early, or by bits that flip in memory.
    """

    VERIFY_IGNORES_CACHE = "verify-ignores-cache"
    KEYS_SCALED = "keys-scaled"
    TILE_LOST = "tile-lost"
    NAN_AT_POSITION = "nan-at-position"
    ARGMAX_ACCEPTANCE = "argmax-acceptance"
    REJECTED_DRAFTS_KEPT = "rejected-drafts-kept"
    RECURRENT_NOT_ROLLED_BACK = "recurrent-not-rolled-back"
    STALE_RECURRENT_SLOT = "stale-recurrent-slot"
    FAR_CONTEXT = "far-context"
    POISONED_PREFIX = "poisoned-prefix"
    FLIPPED_ARGUMENT = "flipped-argument"
    DEAD_DRAFTER = "dead-drafter"
    STEP_HANGS = "step-hangs"
    WORKER_DIES = "worker-dies"
    KEYS_UNROTATED = "keys-unrotated"
    CODES_SCALED = "codes-scaled"
    VALUES_HALVED = "values-halved"
    CODES_DAMAGED = "codes-damaged"


FAR = 1000
"""Tokens of context up to which FAR_CONTEXT does nothing."""


def first_visible(fault: Fault | None, context: int, rows: int) -> int:
    """First position of the cache that a decode call of `rows` rows behind `context` tokens sees."""
    blind = fault is Fault.VERIFY_IGNORES_CACHE or (fault is Fault.FAR_CONTEXT and context > FAR)
    return context if blind and rows > 1 else 0
