"""The MTP head against the same block built from transformers' layers."""

from __future__ import annotations

import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.kv import KVCache
from engine.model import Model
from tests.engine.zoo import fuse_experts, mtp_tensors, variant, write


class Reference:
    """fc over [embedding norm, hidden norm], one full-attention decoder layer, final norm; whole sequences at once."""

    def __init__(self, folder: Path, family: str = "qwen3_5", kind: str = "Qwen3_5", rotary: str = "Text") -> None:
        from transformers import AutoConfig

        modeling = import_module(f"transformers.models.{family}.modeling_{family}")
        config: Any = AutoConfig.from_pretrained(folder)
        config._attn_implementation = "eager"
        tensors = fuse_experts(load_file(folder / "model.safetensors"))
        self.embedding = tensors["model.embed_tokens.weight"]
        self.fc = tensors["mtp.fc.weight"]
        layer = getattr(modeling, f"{kind}DecoderLayer")
        self.layer: Any = layer(config, config.layer_types.index("full_attention"))
        prefix = "mtp.layers.0."
        self.layer.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        self.norms: dict[str, Any] = {}
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            norm = getattr(modeling, f"{kind}RMSNorm")(config.hidden_size, eps=config.rms_norm_eps)
            norm.load_state_dict({"weight": tensors[f"mtp.{name}.weight"]})
            self.norms[name] = norm
        self.rope: Any = getattr(modeling, f"{kind}{rotary}RotaryEmbedding")(config)

    @torch.no_grad()
    def __call__(self, following: list[int], hidden: Tensor) -> Tensor:
        """Slot states [n, H] of tokens `following` and hidden states [n, H], from an empty cache."""
        n = len(following)
        embedded = self.norms["pre_fc_norm_embedding"](self.embedding[torch.tensor(following)])
        x = torch.cat((embedded, self.norms["pre_fc_norm_hidden"](hidden)), -1) @ self.fc.T
        rope = self.rope(x[None], torch.arange(n)[None])
        mask = torch.full((n, n), -torch.inf).triu(1)[None, None]
        y: Tensor = self.norms["norm"](self.layer(x[None], rope, attention_mask=mask)[0])
        return y


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Reference:
    return Reference(tiny_folder)


def cache_of(model: Model) -> KVCache:
    cache = model.new_state().mtp
    assert cache is not None
    return cache


def test_slots_equal_the_reference(model: Model, reference: Reference) -> None:
    rng = random.Random(0)
    prompt = [rng.randrange(256) for _ in range(41)]
    hidden = model.prefill(model.new_state(), prompt)[:40].clone()
    following, cache = prompt[1:], cache_of(model)
    assert model.mtp is not None
    expected = reference(following, hidden)
    for start, end in ((0, 17), (17, 18), (18, 40)):
        state, logits = model.mtp.fill(cache, start, following[start:end], hidden[start:end])
        torch.testing.assert_close(state[0], expected[end - 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits[0], expected[end - 1] @ reference.embedding.T, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "kind", "rotary"),
    [("qwen3_5_moe", "Qwen3_5Moe", "Text"), ("qwen3_next", "Qwen3Next", "")],
)
@pytest.mark.parametrize("fused", [False, True])
def test_a_head_with_experts_equals_the_reference(
    tmp_path: Path, architecture: str, kind: str, rotary: str, fused: bool
) -> None:
    source = write(tmp_path / "source", architecture)
    folder = variant(
        source,
        tmp_path / "model",
        lambda t: (fuse_experts if fused else dict)(t | mtp_tensors(sparse=True)),
    )
    model, following = Model.load(folder), list(range(7, 27))
    hidden = torch.randn(20, 64, generator=torch.Generator().manual_seed(3))
    expected = Reference(folder, architecture, kind, rotary)(following, hidden)
    assert model.mtp is not None
    cache = cache_of(model)
    for start, end in ((0, 11), (11, 20)):
        state, logits = model.mtp.fill(cache, start, following[start:end], hidden[start:end])
        torch.testing.assert_close(state[0], expected[end - 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits[0], model.head(expected[end - 1]), atol=1e-3, rtol=1e-4)


def test_the_head_of_a_mixture_may_be_a_dense_block(tmp_path: Path) -> None:
    """The files decide; the same block beside a dense model of equal sizes gives the same drafts."""
    outs = []
    for architecture in ("qwen3_next", "qwen3_5"):
        source = write(tmp_path / architecture, architecture)
        folder = variant(source, tmp_path / f"{architecture}-mtp", lambda t: t | mtp_tensors(sparse=False))
        model = Model.load(folder)
        assert model.mtp is not None
        hidden = torch.randn(9, 64, generator=torch.Generator().manual_seed(4))
        model.mtp.embedding = torch.ones(320, 64)
        outs.append(model.mtp.fill(cache_of(model), 0, list(range(9)), hidden)[0])
    torch.testing.assert_close(*outs)


def test_a_chained_step_feeds_back_the_state_after_the_norm(model: Model, reference: Reference) -> None:
    hidden = torch.randn(10, 64, generator=torch.Generator().manual_seed(1))
    following, cache = list(range(40, 50)), cache_of(model)
    assert model.mtp is not None
    state, _ = model.mtp.fill(cache, 0, following, hidden)
    chained, logits = model.mtp.step(cache, 10, 77, state)
    expected = reference([*following, 77], torch.cat((hidden, state)))
    torch.testing.assert_close(chained[0], expected[10], atol=1e-4, rtol=1e-4)
    assert logits.shape == (1, 320)


def test_a_slot_is_rewritten_by_a_later_fill(model: Model) -> None:
    hidden = torch.randn(12, 64, generator=torch.Generator().manual_seed(2))
    assert model.mtp is not None
    clean, used = cache_of(model), cache_of(model)
    model.mtp.fill(used, 0, list(range(8)), hidden[:8])
    state, _ = model.mtp.fill(used, 8, [200], hidden[:1])
    model.mtp.step(used, 9, 201, state)
    model.mtp.fill(used, 8, [8, 9, 10, 11], hidden[8:])
    model.mtp.fill(clean, 0, list(range(8)), hidden[:8])
    model.mtp.fill(clean, 8, [8, 9, 10, 11], hidden[8:])
    assert all(torch.equal(a, b) for a, b in zip(used.committed(12), clean.committed(12), strict=True))
