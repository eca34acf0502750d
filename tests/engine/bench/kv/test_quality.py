"""Divergence falls with bits."""

from __future__ import annotations

import torch

from engine.bench.kv.contexts import stretched_model
from engine.bench.kv.quality import divergence_table, measure_divergence, random_text


def test_more_bits_diverge_less() -> None:
    model = stretched_model(None, 512, "cpu", torch.float32)
    found = {d.codec: d for d in measure_divergence(model, "embedded", random_text(model, 512))}
    assert found["k8v8"].kl < found["k8v4"].kl < found["k4v4"].kl < found["k4v2"].kl
    assert found["k4v4"].kl < found["k3v3"].kl
    assert found["k8v8"].top1 > 0.98
    assert len(divergence_table(list(found.values())).rows) == 5
