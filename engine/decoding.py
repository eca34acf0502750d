"""The forward of a decode or verify step, cut into pieces around the attention over the caches.

Must not: commit anything, or let what one step leaves in the static buffers reach another one's rows.
Invariant: what the pieces between two attentions compute depends on the static buffers alone, so they can be captured
once per step shape (blocks, deepest row) and replayed. Attention is left out of them: what it reads grows with the
context, lies elsewhere for each sequence, and may be codes. Source of the cut: piecewise CUDA graphs, as in vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from engine.attention import Attention, AttentionBlock
from engine.captures import Captures
from engine.config import FULL, ModelConfig
from engine.deltanet import DeltaNet, Ingredients, LinearState
from engine.faults import Fault, first_visible
from engine.layers import Angles, Linear, Norm, Rope
from engine.moe import MoE, feed_forward
from engine.softmax import Sight
from engine.state import SequenceState
from engine.upload import on_host
from engine.weights import Weights


@dataclass(frozen=True, slots=True)
class Rows:
    """hidden: post-final-norm states [n, H]; logits: fp32 [n, V]; n = number of real rows."""

    hidden: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """What one sequence wants decoded: 1..rows tokens that follow its state."""

    state: SequenceState
    tokens: Sequence[int]


class Layer:
    """One decoder layer; exactly one of `attention` and `deltanet` is set."""

    def __init__(self, weights: Weights, index: int, config: ModelConfig, dtype: torch.dtype) -> None:
        prefix, eps, size = f"layers.{index}.", config.rms_norm_eps, (config.hidden_size,)
        before = weights.take(f"{prefix}input_layernorm.weight", size, dtype)
        between = weights.take(f"{prefix}post_attention_layernorm.weight", size, dtype)
        self.norm_in = Norm(before, eps, zero_centred=config.zero_centred)
        self.norm_mid = Norm(between, eps, zero_centred=config.zero_centred)
        self.attention: Attention | None = None
        self.deltanet: DeltaNet | None = None
        if config.layer_types[index] == FULL:
            self.attention = Attention(weights, f"{prefix}self_attn.", config, dtype)
        else:
            self.deltanet = DeltaNet(weights, f"{prefix}linear_attn.", config, dtype)
        sparse = config.moe is not None and index in config.moe.layers
        self.mlp = feed_forward(weights, f"{prefix}mlp.", config, dtype, sparse=sparse)

    def feed(self, x: Tensor, real: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """x: [rows, hidden] after `norm_mid`; real: bool [rows], what becomes of the other rows does not matter; rows:
        see MoE."""
        return self.mlp(x, real, rows) if isinstance(self.mlp, MoE) else self.mlp(x)


@dataclass(frozen=True, slots=True)
class Buffers:
    """Static inputs of steps with so many blocks. tokens: int64 [3, rows * blocks]: ids, positions, and 1 where the row
    is real; memory, conv: one stacked state per block; attended: fp32 [rows * blocks, heads * head_dim]."""

    tokens: Tensor
    states: tuple[LinearState, ...]
    attended: Tensor


class Carried(NamedTuple):
    """From one piece to the next: the residual stream [rows, H], the angles of the rows, which are real; and for the
    attention between them queries, keys, values [rows, heads, d] and its gate [rows, heads * d], if it has one."""

    x: Tensor
    angles: Angles
    real: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None
    parts: tuple[tuple[Tensor, ...], ...]
    """Ingredients of the linear layers so far."""


class Ended(NamedTuple):
    """Of the last piece: hidden [rows, H], logits fp32 [rows, V], stacked ingredients of the linear layers, if any."""

    hidden: Tensor
    logits: Tensor
    parts: tuple[Tensor, ...]


class Decoding:
    """Steps of one model. rows: width of a block."""

    def __init__(
        self,
        layers: Sequence[Layer],
        embedding: Tensor,
        norm: Norm,
        head: Linear,
        rope: Rope,
        rows: int,
        captures: Captures,
    ) -> None:
        self._embedding, self._norm, self._head, self._rope, self._rows = embedding, norm, head, rope, rows
        self._captures = captures
        self._spans: list[list[Layer]] = [[]]
        for layer in layers:
            self._spans[-1].append(layer)
            if layer.attention is not None:
                self._spans.append([])
        self._attentions = [layer.attention for layer in layers if layer.attention is not None]
        self._groups = self._attentions[0].heads // self._attentions[0].kv_heads if self._attentions else 1
        self._buffers: dict[int, Buffers] = {}
        self._states: list[LinearState] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the static buffers."""
        tensors = [tensor for each in self._buffers.values() for tensor in (each.tokens, each.attended)]
        tensors += [tensor for state in self._states for tensor in (state.memory, state.conv)]
        return sum(tensor.nbytes for tensor in tensors)

    def run(self, blocks: Sequence[Block], fault: Fault | None = None) -> list[Rows]:
        """Computes the blocks' tokens at their states' lengths and leaves the ingredients as provisional."""
        states = [block.state for block in blocks]
        reals = [len(block.tokens) for block in blocks]
        starts = [state.length for state in states]
        seen = [first_visible(fault, n, r) for n, r in zip(starts, reals, strict=True)]
        occupied = [state.rejected if fault is Fault.REJECTED_DRAFTS_KEPT else 0 for state in states]
        buffers = self._filled(blocks)
        sights = [
            Sight(n, self._rows, self._groups, buffers.tokens.device, s) for n, s in zip(starts, seen, strict=True)
        ]
        shape = (len(blocks), max(reals))
        carried: Carried | None = None
        for index, attention in enumerate(self._attentions):
            work = partial(self._piece, index, buffers, shape, carried)
            carried = self._captures.run((*shape, index), work)
            spans = [
                AttentionBlock(state.kv[index], start, slice(0, real), first, kept, sight)
                for state, start, real, first, kept, sight in zip(
                    states, starts, reals, seen, occupied, sights, strict=True
                )
            ]
            attention.attend(carried.q, carried.k, carried.v, spans, buffers.attended)
        ended = self._captures.run((*shape, "end"), partial(self._last_piece, buffers, shape, carried))
        results = []
        for index, (state, real) in enumerate(zip(states, reals, strict=True)):
            # copies, because the next step of this shape writes there
            mine = Ingredients(*ended.parts).rows(index * shape[1], index * shape[1] + real) if ended.parts else None
            state.propose(mine.clone() if mine is not None else None, real)
            at = slice(index * self._rows, index * self._rows + real)
            results.append(Rows(ended.hidden[at].clone(), ended.logits[at].clone()))
        return results

    def _filled(self, blocks: Sequence[Block]) -> Buffers:
        count, rows = len(blocks), self._rows
        table: list[list[int]] = [[], [], []]
        for block in blocks:
            start, real = block.state.length, len(block.tokens)
            table[0] += [*block.tokens, *[0] * (rows - real)]  # padding rows carry token 0
            table[1] += range(start, start + rows)
            table[2] += [1] * real + [0] * (rows - real)
        buffers = self._buffers.get(count)
        if buffers is None:
            buffers = self._buffers[count] = self._new_buffers(blocks)
        buffers.tokens.copy_(on_host(table, buffers.tokens.device), non_blocking=True)
        for kept, block in zip(buffers.states, blocks, strict=True):
            kept.memory.copy_(block.state.linear.memory)
            kept.conv.copy_(block.state.linear.conv)
        return buffers

    def _new_buffers(self, blocks: Sequence[Block]) -> Buffers:
        count, device = len(blocks), self._embedding.device
        width = self._attentions[0].q_dim if self._attentions else 0
        # steps with more blocks use the same states and some more
        self._states += [block.state.linear.clone() for block in blocks[len(self._states) :]]
        return Buffers(
            torch.zeros(3, self._rows * count, dtype=torch.int64, device=device),
            tuple(self._states[:count]),
            torch.zeros(self._rows * count, width, device=device),
        )

    def _piece(self, index: int, buffers: Buffers, shape: tuple[int, int], before: Carried | None) -> Carried:
        """From the attention before it to the projections of the next one."""
        x, angles, real, parts = self._through(index, buffers, shape, before)
        layer = self._spans[index][-1]
        assert layer.attention is not None
        q, k, v, gate = layer.attention.project(layer.norm_in(x), self._rope, angles)
        return Carried(x, angles, real, q, k, v, gate, parts)

    def _last_piece(self, buffers: Buffers, shape: tuple[int, int], before: Carried | None) -> Ended:
        """From the last attention to the logits."""
        x, _, _, parts = self._through(len(self._attentions), buffers, shape, before)
        hidden = self._norm(x)
        stacked = tuple(torch.stack(kind) for kind in zip(*parts, strict=True))
        return Ended(hidden, self._head(hidden).float(), stacked)

    def _through(
        self, index: int, buffers: Buffers, shape: tuple[int, int], before: Carried | None
    ) -> tuple[Tensor, Angles, Tensor, tuple[tuple[Tensor, ...], ...]]:
        """What is left of the attention layer before the span, then the span's linear layers."""
        rows = [block * self._rows + row for block in range(shape[0]) for row in range(shape[1])]
        if before is None:
            ids, positions, is_real = buffers.tokens.unbind(0)
            x, angles, real = self._embedding[ids], self._rope.at(positions), is_real > 0
            parts: tuple[tuple[Tensor, ...], ...] = ()
        else:
            layer, (angles, real, parts) = self._spans[index - 1][-1], (before.angles, before.real, before.parts)
            assert layer.attention is not None
            x = before.x + layer.attention.output(buffers.attended, before.gate, before.x.dtype)
            x = x + layer.feed(layer.norm_mid(x), real, rows)
        for layer in self._spans[index]:
            if layer.deltanet is None:
                continue
            memories = [LinearState(state.memory[len(parts)], state.conv[len(parts)]) for state in buffers.states]
            out, made = layer.deltanet.decode(layer.norm_in(x), memories, shape[1])
            parts = (*parts, (made.conv, made.k, made.u, made.decay))
            x = x + out
            x = x + layer.feed(layer.norm_mid(x), real, rows)
        return x, angles, real, parts
