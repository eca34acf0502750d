"""What sets the supported architectures apart where config.json does not say it.

Must not: hold sizes of single models, or anything that a configuration file states.
Invariant: one entry per `model_type`; a text-only export (`..._text`) is the family that it was cut from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """hybrid: layers may be linear; gated: q_proj also yields an output gate; zero_centred: norms apply (1 + w);
    mtp: a drafting head may follow. Defaults of absent fields: rotated = partial_rotary_factor, head_dim (None =
    hidden_size / num_attention_heads), normalised = norm_topk_prob.

    experts: layers may hold experts; shared: such a layer has a shared expert as well; uniform: every layer holds
    experts and their weights are always normalised, whatever the file says.
    """

    hybrid: bool = False
    gated: bool = False
    zero_centred: bool = False
    mtp: bool = False
    rotated: float = 1.0
    head_dim: int | None = None
    experts: bool = False
    shared: bool = False
    normalised: bool = True
    uniform: bool = False


_QWEN3_5 = Family(hybrid=True, gated=True, zero_centred=True, mtp=True, rotated=0.25, head_dim=256)
_QWEN3_5_MOE = Family(
    hybrid=True,
    gated=True,
    zero_centred=True,
    mtp=True,
    rotated=0.25,
    head_dim=256,
    experts=True,
    shared=True,
    uniform=True,
)

FAMILIES = {
    "qwen3": Family(head_dim=128),
    "qwen3_moe": Family(experts=True, normalised=False),
    "qwen3_next": Family(
        hybrid=True, gated=True, zero_centred=True, mtp=True, rotated=0.25, head_dim=256, experts=True, shared=True
    ),
    "qwen3_5": _QWEN3_5,
    "qwen3_5_text": _QWEN3_5,
    "qwen3_5_moe": _QWEN3_5_MOE,
    "qwen3_5_moe_text": _QWEN3_5_MOE,
}
