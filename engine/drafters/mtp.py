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
from engine.penalties import Penalties
from engine.sampler import SamplingParams, guess
from engine.state import SequenceState

MAX_QUEUED = 4096
"""Rows of hidden states: 40 MB for a hidden size of 5120 in bf16."""


class MtpDrafter:
    """Drafts for one sequence. `state` gives the present state of the sequence (it is replaced on a restart).

    valid_tokens: ids at and above it are padding. max_chain: longest chain, None = as many as a step can verify; how
    many pay is the pacer's to say (engine.pacing). max_queued: rows that may wait for the head's cache; a turn that
    will draft sets it low, so that the work is spread over the chunks of the prompt.
    """

    name = "mtp"

    def __init__(
        self, model: Model, state: Callable[[], SequenceState], valid_tokens: int, max_chain: int | None = None
    ) -> None:
        if model.mtp is None:
            raise ValueError("drafter mtp: this model has no mtp.* tensors; use ngram or none")
        self.head = model.mtp
        self.model = model
        self.state = state
        self.valid_tokens = valid_tokens
        self.max_chain = model.rows - 1 if max_chain is None else max_chain
        self.sampling = SamplingParams()
        self.penalties: Penalties | None = None
        """The turn's, so that drafts are chosen as the target will choose; None only where `sampling` needs none."""
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
            self.catch_up()

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
        """Nothing to learn: how long a chain pays is the pacer's business."""

    def catch_up(self) -> None:
        """Writes the slots of all that was committed, as a proposal does first."""
        if self._hidden:
            for chunk in self._chunks():
                self.head.write(self._cache(), *chunk)

    def propose(self, limit: int) -> list[int]:
        """Fills the head's cache with what was committed, then chains at most `limit` drafts."""
        limit = min(limit, self.max_chain)
        if not self._hidden or limit <= 0:
            return []
        cache = self._cache()
        *behind, newest = self._chunks()
        for chunk in behind:
            self.head.write(cache, *chunk)
        hidden, logits = self.head.fill(cache, *newest)
        return self._chain(cache, hidden, logits, limit)

    def _chunks(self) -> list[tuple[int, list[int], Tensor]]:
        """What the head's cache lacks, a prefill chunk at a time: position, following tokens, rows. Counts as written
        but for the newest row, which stays queued so that a second proposal can start from it again."""
        chunks, at, rows = [], self._first, torch.cat(self._hidden)
        for part in torch.split(rows, self.model.prefill_rows):
            chunks.append((at, self._tokens[at + 1 : at + 1 + part.shape[0]], part))
            at += part.shape[0]
        self._first, self._hidden = at - 1, [rows[-1:].clone()]
        return chunks

    def _cache(self) -> KVCache:
        cache = self.state().mtp
        if cache is None:
            raise ValueError("drafter mtp: the sequence's state was made without a cache for the head")
        return cache

    def _chain(self, cache: KVCache, hidden: Tensor, logits: Tensor, limit: int) -> list[int]:
        """Drafts stay on the device until the last one: the host waits once per proposal."""
        drafts: list[Tensor] = []
        known: list[int] = []
        position = len(self._tokens)
        for step in range(limit):
            adjusted = None
            if self.penalties is not None and self.sampling.adjusts:  # what was drafted counts, so it must be known
                known += [int(draft) for draft in drafts[len(known) :]]
                adjusted = self.penalties.adjust(logits, known)
            drafts.append(guess(logits, [position + step], self.sampling, self.valid_tokens, adjusted))
            if step + 1 < limit:
                # slots behind the newest row are rewritten by the next fill
                hidden, logits = self.head.step(cache, self._first + 1 + step, drafts[-1], hidden)
        return [int(token) for token in torch.cat(drafts).tolist()]
