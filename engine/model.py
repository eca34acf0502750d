"""The model: prefill, fixed-width decode and verify, commit.

Must not: sample, draft, or keep anything about a sequence outside its `SequenceState`.
Invariant: `decode` always computes exactly `rows` rows (padded), so a row has the same bits alone, beside drafts, and
at any index; `prefill` works in padded chunks whose edges lie at absolute multiples of `prefill_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.attention import AttentionBlock
from engine.captures import Captures
from engine.codecs.quantiser import Scratch, quantiser
from engine.codecs.spec import FLUSH, SPECS, header, layer_codecs
from engine.codecs.spec import FULL as FULL_CODEC
from engine.compressed import Cache, CompressedCache, Layout
from engine.config import ModelConfig
from engine.decoding import Block, Decoding, Layer, Rows
from engine.deltanet import INNER, LinearState
from engine.errors import ContextOverflow
from engine.faults import Fault
from engine.kernels.switch import Kernels
from engine.kv import KVCache
from engine.layers import Linear, Norm, Rope
from engine.memory import cache_bytes
from engine.mtp import MtpHead
from engine.state import SequenceState
from engine.upload import on_host
from engine.weights import Weights


class Model:
    """A loaded model. rows: width W of every decode step; prefill_rows: width of a prefill chunk.

    notes: what whoever loaded it should know, one sentence each (a head that is announced but not there).
    """

    def __init__(self, weights: Weights, config: ModelConfig, dtype: torch.dtype, rows: int, prefill_rows: int) -> None:
        if rows < 1 or prefill_rows % INNER:
            raise ValueError(f"rows must be positive and prefill_rows a multiple of {INNER}")
        self.config, self.dtype, self.device = config, dtype, weights.device
        self.rows, self.prefill_rows = rows, prefill_rows
        size = (config.vocab_size, config.hidden_size)
        self.embedding = weights.take("embed_tokens.weight", size, dtype)
        notes: list[str] = []
        scored = self.embedding
        if not config.tie_word_embeddings or weights.has("lm_head.weight"):
            head = weights.take("lm_head.weight", size, dtype)
            if not config.tie_word_embeddings or not torch.equal(head, self.embedding):
                scored = head
                if config.tie_word_embeddings:
                    notes.append("tie_word_embeddings is true, but lm_head.weight differs; the file's head is used")
        self.head = Linear(scored)
        self.rope = Rope(config, self.device)
        self.captures = Captures(self.device)
        self.layers = [Layer(weights, i, config, dtype) for i in range(config.num_layers)]
        last = weights.take("norm.weight", size[1:], dtype)
        self.norm = Norm(last, config.rms_norm_eps, zero_centred=config.zero_centred)
        self.mtp: MtpHead | None = None
        # the files decide, not the configuration: quantised repositories often lack the head they announce
        if config.has_mtp and weights.has("mtp.fc.weight"):
            self.mtp = MtpHead(weights, config, self.embedding, self.head, self.rope, dtype, self.captures)
        elif config.mtp_layers:
            notes.append("config.json announces an MTP head, but no file holds mtp.* tensors; MTP is off")
        if weights.dequantised:
            notes.append(f"{weights.dequantised} FP8 tensors are held as {str(dtype).removeprefix('torch.')}")
        weights.finish()
        # a packed head is a copy of the embedding that it is tied to
        copied = scored is self.embedding and self.head.packed
        self._nbytes = weights.taken_bytes + copied * scored.numel() * scored.element_size()
        self.notes = tuple(notes)
        self.decoding = Decoding(self.layers, self.embedding, self.norm, self.head, self.rope, rows, self.captures)
        self._scratch, self._layouts = Scratch(self.device), dict[str, Layout]()
        self.kernels = Kernels.of(self.device)
        self.make_coded: Callable[[Layout], CompressedCache] = CompressedCache
        """Another one where a fault is planted."""

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rows: int = 8,
        prefill_rows: int = 128,
    ) -> Model:
        """Loads a Hugging Face style folder. Raises ConfigError or WeightError."""
        config = ModelConfig.load(folder)
        return cls(Weights(folder, device, config.fp8_block), config, dtype, rows, prefill_rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device."""
        return self._nbytes

    def new_state(self, codec: str = FULL_CODEC) -> SequenceState:
        """An empty sequence. codec: of the attention layers; the head's own cache stays full, because a draft that is
        worse costs more than its few rows would save. Raises ValueError for a codec that does not fit the model."""
        memories = [layer.deltanet.new_state(self.device) for layer in self.layers if layer.deltanet is not None]
        return SequenceState(
            kv=self.new_caches(codec),
            linear=LinearState.stacked(memories, self.device),
            mtp=self._cache() if self.mtp else None,
            header=header(codec),
        )

    def new_caches(self, codec: str) -> list[Cache]:
        """One empty cache per full-attention layer."""
        attention = sum(layer.attention is not None for layer in self.layers)
        return [self._coded_cache(name) for name in layer_codecs(codec, attention, len(self.layers) - attention)]

    @torch.inference_mode()
    def prefill(self, state: SequenceState, tokens: Sequence[int], keep: Collection[int] = ()) -> Tensor:
        """Commits `tokens`; returns their post-final-norm hidden states [n, H]. Raises ContextOverflow.

        keep: absolute positions, multiples of INNER, of which a checkpoint is kept in passing.
        """
        self._check_room(state, len(tokens))
        hidden, done = [], 0
        while done < len(tokens):
            base = state.length // self.prefill_rows * self.prefill_rows
            offset = state.length - base
            count = min(self.prefill_rows - offset, len(tokens) - done)
            hidden.append(self._prefill_chunk(state, tokens[done : done + count], base, offset, keep))
            done += count
        return torch.cat(hidden)

    def decode(self, state: SequenceState, tokens: Sequence[int], fault: Fault | None = None) -> Rows:
        """`decode_blocks` for one sequence."""
        return self.decode_blocks([Block(state, tokens)], fault)[0]

    @torch.inference_mode()
    def decode_blocks(self, blocks: Sequence[Block], fault: Fault | None = None) -> list[Rows]:
        """One forward for several sequences, `rows` rows each: computes 1..rows tokens of every block at its
        state.length.. without committing them; see `commit`. Raises ValueError and ContextOverflow before anything
        is computed.

        Whether a row has the same bits in company as alone is a property of the device's kernels: `self_test` finds
        up to how many blocks it holds.
        """
        for block in blocks:
            if not 1 <= len(block.tokens) <= self.rows:
                raise ValueError(f"decode takes 1 to {self.rows} tokens, got {len(block.tokens)}")
            self._check_room(block.state, len(block.tokens))
        return self.decoding.run(blocks, fault)

    @torch.inference_mode()
    def commit(self, state: SequenceState, count: int) -> None:
        """Makes the first `count` rows of the last decode part of the state."""
        state.commit(count)

    def _prefill_chunk(
        self, state: SequenceState, tokens: Sequence[int], base: int, offset: int, keep: Collection[int]
    ) -> Tensor:
        real = slice(offset, offset + len(tokens))
        # the state before the first row is the caller's; the one behind the last is kept below
        edges = [row for row in range(0, self.prefill_rows, INNER) if offset < row < real.stop and base + row in keep]
        x = self._embed(tokens, offset)
        angles = self.rope.angles(base, self.prefill_rows)
        caches, memories = iter(state.kv), iter(state.linear.layers())
        after: list[LinearState] = []
        kept: list[list[LinearState]] = []
        wanted = torch.zeros(self.prefill_rows, dtype=torch.bool, device=self.device)
        wanted[real] = True
        for layer in self.layers:
            y = layer.norm_in(x)
            if layer.attention is not None:
                x = x + layer.attention(y, self.rope, angles, AttentionBlock(next(caches), base, real))
            elif layer.deltanet is not None:
                out, behind, at_edges = layer.deltanet.prefill(y, next(memories), base, real, edges)
                after.append(behind)
                kept.append(at_edges)
                x = x + out
            x = x + layer.feed(layer.norm_mid(x), wanted)
        for index, row in enumerate(edges):
            state.keep(base + row, LinearState.stacked([layer[index] for layer in kept], self.device))
        state.linear = LinearState.stacked(after, self.device)
        state.skip_log(len(tokens))
        if state.length in keep:
            state.checkpoint()
        return self.norm(x)[real]

    def _embed(self, tokens: Sequence[int], offset: int) -> Tensor:
        """Embeddings [prefill_rows, H] of tokens that stand at `offset`; padding rows carry token 0."""
        ids = [0] * self.prefill_rows
        ids[offset : offset + len(tokens)] = tokens
        return self.embedding[on_host(ids, self.device).to(self.device, non_blocking=True)]

    def _cache(self) -> KVCache:
        return KVCache(self.config.num_kv_heads, self.config.head_dim, self.dtype, self.device)

    def cache_bytes(self, codec: str, context: int) -> int:
        """Bytes that the attention caches of one sequence take at `context` tokens."""
        return cache_bytes(self.config, codec, context, self.dtype, self._window)

    @property
    def _window(self) -> int:
        """A chunk of the prompt, or a step and all raw rows that it may read, in whole blocks."""
        return -(-max(self.prefill_rows, FLUSH + self.rows) // FLUSH) * FLUSH

    def _coded_cache(self, codec: str) -> Cache:
        return self._cache() if codec == FULL_CODEC else self.make_coded(self.layout(codec))

    def layout(self, codec: str) -> Layout:
        """What all compressed caches of this codec share."""
        if codec not in self._layouts:
            spec, dim = SPECS[codec], self.config.head_dim
            keys, values = (quantiser(bits, dim, self.device) for bits in (spec.key_bits, spec.value_bits))
            sizes = (self.config.num_kv_heads, dim, self.dtype, self.device, self._window)
            self._layouts[codec] = Layout(codec, spec.header, *sizes, keys, values, self._scratch, self.kernels)
        return self._layouts[codec]

    def _check_room(self, state: SequenceState, count: int) -> None:
        if state.length + count > self.config.max_context:
            raise ContextOverflow(state.length + count, self.config.max_context)


__all__ = ["Block", "Model", "Rows"]
