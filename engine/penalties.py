"""Penalties and biases: logits changed by what was said before, row by row of a verify step.

Must not: sample, or go through the history in a step: counts are kept up to date with the tokens that are committed.
Invariant: the adjusted row i is a function of (logits of row i, history + drafts before it, params), bit for bit the
one that plain decoding gives at that position: integer counts, then operations on single elements in a fixed order.

Sources: repetition: CTRL (Keskar et al., arXiv 1909.05858), as in transformers and vLLM over prompt and response.
Presence and frequency: OpenAI's API, over the response alone. Order as in vLLM: bias, repetition, frequency, presence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.sampler import SamplingParams

_LIMIT = 3.4e38
"""Largest magnitude of an adjusted logit: what overflows stays a number, and stays last or first."""


class Penalties:
    """The params of one turn and what was said in it. A drafter may share it: `adjust` changes nothing.

    valid_tokens: ids at and above it are padding. prompt: token ids; counted once. Nothing is counted, and no memory
    used, if the params need none. Raises ValueError for a bias on a token that does not exist.
    """

    def __init__(
        self,
        params: SamplingParams,
        valid_tokens: int,
        prompt: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        check_bias(params, valid_tokens)
        self.params, self.valid_tokens, self.device = params, valid_tokens, torch.device(device)
        self._bias: Tensor | None = None
        if params.logit_bias:
            bias = torch.zeros(valid_tokens)
            for token, value in params.logit_bias:
                bias[token] = value
            self._bias = bias.to(self.device)
        # row 0: how often a token was generated; row 1: how often it occurs in prompt and response
        self._counts: Tensor | None = None
        if params.penalised:
            self._counts = torch.zeros(2, valid_tokens, dtype=torch.int32, device=self.device)
            self._count(prompt, 1, rows=slice(1, 2))

    def extend(self, tokens: Sequence[int]) -> None:
        """`tokens` were generated."""
        self._count(tokens, 1)

    def forget(self, tokens: Sequence[int]) -> None:
        """`tokens`, the last ones that were generated, are taken back by a rewind."""
        self._count(tokens, -1)

    def adjust(self, logits: Tensor, drafts: Sequence[int] = ()) -> Tensor | None:
        """Adjusted logits float32 [n, valid_tokens], or None if the params change none.

        logits: float32 [n, V], not changed. The last row comes after all `drafts`, each row before it after one
        less: a verify step passes len(drafts) + 1 rows, a drafter one row and what it has drafted so far. Raises
        ValueError if there are more rows.
        """
        if not self.params.adjusts:
            return None
        count = logits.shape[0]
        if count > len(drafts) + 1:
            raise ValueError(f"logits: {count} rows need {count - 1} drafts, there are {len(drafts)}")
        own = logits[:, : self.valid_tokens].float()
        rows = own if self._bias is None else own + self._bias
        if self._counts is not None:
            rows = self._penalised(rows, self._counts.unsqueeze(1) + self._ahead(count, drafts))
        # a number stays a number; what was none stays so, and is never chosen
        return torch.where(torch.isfinite(own), rows.clamp(-_LIMIT, _LIMIT), own)

    def _penalised(self, rows: Tensor, counts: Tensor) -> Tensor:
        """counts: int32 [2, n, valid_tokens], one pair for every row."""
        generated, occurred = counts[0], counts[1] > 0
        params = self.params
        if params.repetition_penalty != 1:
            factor = params.repetition_penalty
            rows = torch.where(occurred, torch.where(rows > 0, rows / factor, rows * factor), rows)
        if params.frequency_penalty != 0:
            rows = rows - generated.float() * params.frequency_penalty
        if params.presence_penalty != 0:
            rows = rows - (generated > 0).float() * params.presence_penalty
        return rows

    def _ahead(self, count: int, drafts: Sequence[int]) -> Tensor:
        """How often each row's own drafts name each token: int32 [count, valid_tokens]."""
        ahead = torch.zeros(count, self.valid_tokens, dtype=torch.int32, device=self.device)
        first = len(drafts) - count + 1
        pairs = [(row, token) for row in range(count) for token in self._known(drafts[: first + row])]
        if pairs:
            at = torch.tensor(pairs).T.to(self.device, non_blocking=True)
            one = torch.ones((), dtype=torch.int32, device=self.device)
            ahead.index_put_((at[0], at[1]), one, accumulate=True)
        return ahead

    def _count(self, tokens: Sequence[int], sign: int, rows: slice = slice(0, 2)) -> None:
        known = self._known(tokens)
        if self._counts is None or not known:
            return
        at = torch.tensor(known).to(self.device, non_blocking=True)
        change = torch.full((1,), sign, dtype=torch.int32, device=self.device).expand(len(known))
        for row in self._counts[rows]:
            row.index_add_(0, at, change)

    def _known(self, tokens: Sequence[int]) -> list[int]:
        """Padding has no logit to change."""
        return [token for token in tokens if token < self.valid_tokens]


def check_bias(params: SamplingParams, valid_tokens: int) -> None:
    """Raises ValueError that names the field if a bias is on a token that does not exist."""
    unknown = [token for token, _ in params.logit_bias if token >= valid_tokens]
    if unknown:
        raise ValueError(f"logit_bias: token {unknown[0]} is outside the vocabulary of {valid_tokens}")
