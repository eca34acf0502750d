"""The model's own multi-token-prediction head as a drafter, chained up to the asked length.

Must not: influence the output (verification is equality), or keep unbounded memory: committed hidden states queue
up, and the head's KV cache is filled from them when a proposal is wanted or `max_queued` rows are waiting.
Invariant: slot p of the head's KV cache holds (token p+1, target hidden state p); slots written from drafted hidden
states are dropped at once and rewritten from the target's. Source of the scheme: Qwen's `mtp.*` layout, see engine.mtp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.drafters.base import Drafter
from engine.kv import KVCache
from engine.model import Model
from engine.sampler import SamplingParams, pick
from engine.state import SequenceState

MAX_QUEUED = 4096
"""Rows of hidden states: 40 MB for a hidden size of 5120 in bf16."""


class MtpDrafter:
    """Drafts for one sequence. `state` gives the present state of the sequence (it is replaced on a restart).

    valid_tokens: ids at and above it are padding. max_chain: longest chain; one head re-applied loses accuracy
    with every position, and more than a few steps do not pay. max_queued: rows that may wait for the head's cache; a
    turn that will draft sets it low, so that the work is spread over the chunks of the prompt.
    """

    name = "mtp"

    def __init__(self, model: Model, state: Callable[[], SequenceState], valid_tokens: int, max_chain: int = 3) -> None:
        if model.mtp is None:
            raise ValueError("drafter mtp: this model has no mtp.* tensors; use ngram or none")
        self.head = model.mtp
        self.model = model
        self.state = state
        self.valid_tokens = valid_tokens
        self.max_chain = max_chain
        self.sampling = SamplingParams()
        self.max_queued = MAX_QUEUED
        self._tokens: list[int] = []
        self._hidden: list[Tensor] = []
        self._first = 0
        """Position of the first queued hidden row; slots below it are in the head's cache."""

    def begin(self, tokens: Sequence[int]) -> None:
        """A new history of which no hidden states are known yet; `tokens` holds the first token alone."""
        self._tokens = list(tokens)
        self._hidden = []
        self._first = 0

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        """hidden: [n, H], row i is the target's hidden state that precedes tokens[i]."""
        if hidden is None:
            raise ValueError("drafter mtp: needs the hidden states of committed tokens")
        self._tokens.extend(tokens)
        self._hidden.append(hidden.clone())
        if len(self._tokens) - 1 - self._first > self.max_queued:
            self._fill()

    def truncate(self, length: int) -> None:
        """History is now tokens[:length]; row p belongs to the history iff token p+1 does."""
        del self._tokens[length:]
        rows = max(length - 1, 0)
        if rows <= self._first:
            self._first = rows
            self._hidden = []
            return
        keep = rows - self._first
        kept: list[Tensor] = []
        for block in self._hidden:
            if keep <= 0:
                break
            kept.append(block[:keep])
            keep -= block.shape[0]
        self._hidden = kept

    def adopt(self, other: Drafter, tokens: Sequence[int]) -> None:
        """Takes the queue over; the slots of the head's cache came with the state."""
        if not isinstance(other, MtpDrafter):
            raise TypeError(f"drafter mtp: cannot adopt a {type(other).__name__}")
        self._tokens, self._hidden, self._first = list(other._tokens), list(other._hidden), other._first
        self.truncate(len(tokens))

    def feedback(self, drafted: int, accepted: int) -> None:
        """The chain length is fixed for now; acceptance is reported by the steps."""

    def propose(self, limit: int) -> list[int]:
        """Fills the head's cache with what was committed, then chains at most `limit` drafts."""
        limit = min(limit, self.max_chain)
        if not self._hidden or limit <= 0:
            return []
        hidden, logits = self._fill()
        return self._chain(hidden, logits, limit)

    def _fill(self) -> tuple[Tensor, Tensor]:
        """Writes the slots of all queued rows, a prefill chunk at a time; returns the newest's state and logits."""
        cache, rows, at = self._cache(), torch.cat(self._hidden), self._first
        for part in torch.split(rows, self.model.prefill_rows):
            following = self._tokens[at + 1 : at + 1 + part.shape[0]]
            hidden, logits = self.head.fill(cache, at, following, part)
            at += part.shape[0]
        # the newest row stays queued, so that a second proposal without a commit can start from it again
        self._first, self._hidden = at - 1, [rows[-1:]]
        return hidden, logits

    def _cache(self) -> KVCache:
        cache = self.state().mtp
        if cache is None:
            raise ValueError("drafter mtp: the sequence's state was made without a cache for the head")
        return cache

    def _chain(self, hidden: Tensor, logits: Tensor, limit: int) -> list[int]:
        drafts: list[int] = []
        cache, position = self._cache(), len(self._tokens)
        for step in range(limit):
            picked = pick(logits[-1:], [position + step], self.sampling, self.valid_tokens)
            drafts.append(int(picked))
            if step + 1 < limit:
                # slots behind the newest row are rewritten by the next fill
                hidden, logits = self.head.step(cache, self._first + 1 + step, drafts[-1], hidden)
        return drafts
