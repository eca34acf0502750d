"""The `qwen3_5` hybrid in trainable form: the same mathematics as `engine`, whole sequences at once, with gradients.

Must not: be used for serving (it keeps no cache) or import the engine (each is a check on the other).
Invariant: `state_dict()` has exactly the Hugging Face names, so that saving needs no renaming.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 64
"""Tokens per chunk of the gated delta rule; one triangular system of this size is solved per chunk and head."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model; `config()` writes them under Hugging Face's names."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    linear_num_key_heads: int = 4
    linear_num_value_heads: int = 4
    linear_key_head_dim: int = 64
    linear_value_head_dim: int = 64
    linear_conv_kernel_dim: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    partial_rotary_factor: float = 0.25
    max_position_embeddings: int = 4096

    @property
    def layer_types(self) -> list[str]:
        return ["full_attention" if i % 2 else "linear_attention" for i in range(self.num_hidden_layers)]

    def config(self) -> dict[str, Any]:
        """config.json of the exported folder."""
        fields = asdict(self)
        rope = {
            "rope_type": "default",
            "rope_theta": fields.pop("rope_theta"),
            "partial_rotary_factor": fields["partial_rotary_factor"],
        }
        return {
            "architectures": ["Qwen3_5ForCausalLM"],
            "model_type": "qwen3_5_text",
            **fields,
            "layer_types": self.layer_types,
            "rope_parameters": rope,
            "attn_output_gate": True,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "mamba_ssm_dtype": "float32",
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            "tie_word_embeddings": True,
            "use_cache": True,
            "dtype": "bfloat16",
        }


class ZeroCentredNorm(nn.Module):
    """RMSNorm with weight (1 + w), as all norms of the family except the one inside the linear layers."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * (1.0 + self.weight)).to(x.dtype)


class GatedNorm(nn.Module):
    """RMSNorm with plain weight, then times silu(gate)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y * F.silu(gate.float())


class Attention(nn.Module):
    """Full attention with grouped heads, q/k norm, partial RoPE and a sigmoid output gate."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        q, kv = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        self.q_proj = nn.Linear(s.hidden_size, 2 * q, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(q, s.hidden_size, bias=False)
        self.q_norm = ZeroCentredNorm(s.head_dim, s.rms_norm_eps)
        self.k_norm = ZeroCentredNorm(s.head_dim, s.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        b, t, _ = x.shape
        s = self.s
        q, gate = self.q_proj(x).view(b, t, s.num_attention_heads, 2 * s.head_dim).chunk(2, dim=-1)
        k = self.k_proj(x).view(b, t, s.num_key_value_heads, s.head_dim)
        v = self.v_proj(x).view(b, t, s.num_key_value_heads, s.head_dim).transpose(1, 2)
        q = rotate(self.q_norm(q).transpose(1, 2), rope)
        k = rotate(self.k_norm(k).transpose(1, 2), rope)
        groups = s.num_attention_heads // s.num_key_value_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        out = out.transpose(1, 2).reshape(b, t, -1) * torch.sigmoid(gate.reshape(b, t, -1))
        mixed: Tensor = self.o_proj(out)
        return mixed


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the first dims of each head by position. x: [b, heads, t, dim]; rope: cos, sin [t, rotary]."""
    cos, sin = rope
    n = cos.shape[-1]
    turned, rest = x[..., :n], x[..., n:]
    half = torch.cat((-turned[..., n // 2 :], turned[..., : n // 2]), dim=-1)
    return torch.cat((turned * cos + half * sin, rest), dim=-1)


class DeltaNet(nn.Module):
    """Gated DeltaNet: causal convolution, gated delta rule, gated norm."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        keys = s.linear_num_key_heads * s.linear_key_head_dim
        values = s.linear_num_value_heads * s.linear_value_head_dim
        channels = 2 * keys + values
        self.in_proj_qkv = nn.Linear(s.hidden_size, channels, bias=False)
        self.in_proj_z = nn.Linear(s.hidden_size, values, bias=False)
        self.in_proj_b = nn.Linear(s.hidden_size, s.linear_num_value_heads, bias=False)
        self.in_proj_a = nn.Linear(s.hidden_size, s.linear_num_value_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, s.linear_conv_kernel_dim, groups=channels, bias=False)
        self.A_log = nn.Parameter(torch.empty(s.linear_num_value_heads).uniform_(1, 16).log())
        steps = torch.empty(s.linear_num_value_heads).uniform_(-6.9, -2.3).exp()
        self.dt_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.norm = GatedNorm(s.linear_value_head_dim, s.rms_norm_eps)
        self.out_proj = nn.Linear(values, s.hidden_size, bias=False)
        self.sizes = [keys, keys, values]

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        s = self.s
        mixed = self.in_proj_qkv(x)
        # a depthwise convolution of width 4 as four shifted products: much faster than conv1d on a CPU
        width = s.linear_conv_kernel_dim
        padded = F.pad(mixed, (0, 0, width - 1, 0))
        taps = self.conv1d.weight[:, 0].to(mixed.dtype)
        convolved = padded[:, :t] * taps[:, 0]
        for i in range(1, width):
            convolved = convolved + padded[:, i : i + t] * taps[:, i]
        q, k, v = torch.split(F.silu(convolved), self.sizes, dim=-1)
        q = unit(q.view(b, t, s.linear_num_key_heads, -1).float()) * s.linear_key_head_dim**-0.5
        k = unit(k.view(b, t, s.linear_num_key_heads, -1).float())
        v = v.view(b, t, s.linear_num_value_heads, -1).float()
        groups = s.linear_num_value_heads // s.linear_num_key_heads
        q, k = q.repeat_interleave(groups, 2), k.repeat_interleave(groups, 2)
        beta = torch.sigmoid(self.in_proj_b(x).float())
        g = -self.A_log.float().exp() * F.softplus(self.in_proj_a(x).float() + self.dt_bias)
        # in fp32 whatever the caller casts to
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            out = gated_delta_rule(*(y.transpose(1, 2) for y in (q, k, v, beta, g)))
        z = self.in_proj_z(x).view(b, t, s.linear_num_value_heads, -1)
        mixed = self.norm(out.transpose(1, 2), z).reshape(b, t, -1)
        y: Tensor = self.out_proj(mixed.to(x.dtype))
        return y


def unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> Tensor:
    """Chunked gated delta rule (Yang et al. 2412.06464) from a zero state.

    q, k: [b, h, t, dk]; v: [b, h, t, dv]; beta, g: [b, h, t]; all fp32; returns [b, h, t, dv]. In a chunk with
    cumulated decay c: (I + A) U = beta (V - e^c K S), A_ij = beta_i e^(c_i - c_j) k_i.k_j below the diagonal.
    """
    b, h, t, dk = k.shape
    pad = -t % CHUNK
    if pad:
        q, k, v = (F.pad(y, (0, 0, 0, pad)) for y in (q, k, v))
        beta, g = F.pad(beta, (0, pad)), F.pad(g, (0, pad))
    n = (t + pad) // CHUNK
    q, k, v = (y.reshape(b, h, n, CHUNK, -1) for y in (q, k, v))
    beta, c = beta.reshape(b, h, n, CHUNK, 1), g.reshape(b, h, n, CHUNK).cumsum(-1)
    ratio = (c.unsqueeze(-1) - c.unsqueeze(-2)).tril().exp().tril()
    inner = (beta * (k @ k.transpose(-1, -2)) * ratio).tril(-1)
    eye = torch.eye(CHUNK, device=k.device, dtype=k.dtype)
    solved = torch.linalg.solve_triangular(
        eye + inner, torch.cat((beta * v, beta * c.exp().unsqueeze(-1) * k), -1), upper=False, unitriangular=True
    )
    wv, wk = solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]
    scores = (q @ k.transpose(-1, -2)) * ratio
    decayed_q = q * c.exp().unsqueeze(-1)
    last = c[..., -1:]
    decayed_k = (k * (last - c).exp().unsqueeze(-1)).transpose(-1, -2)
    state = torch.zeros(b, h, dk, v.shape[-1], device=k.device, dtype=k.dtype)
    outs = []
    for i in range(n):
        u = wv[:, :, i] - wk[:, :, i] @ state
        outs.append(decayed_q[:, :, i] @ state + scores[:, :, i] @ u)
        state = state * last[:, :, i].exp().unsqueeze(-1) + decayed_k[:, :, i] @ u
    return torch.stack(outs, 2).reshape(b, h, t + pad, -1)[:, :, :t]


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Layer(nn.Module):
    """One decoder layer; `kind` as in `layer_types`."""

    def __init__(self, s: Shape, kind: str) -> None:
        super().__init__()
        self.input_layernorm = ZeroCentredNorm(s.hidden_size, s.rms_norm_eps)
        self.post_attention_layernorm = ZeroCentredNorm(s.hidden_size, s.rms_norm_eps)
        self.mlp = Mlp(s)
        if kind == "full_attention":
            self.self_attn = Attention(s)
        else:
            self.linear_attn = DeltaNet(s)
        self.kind = kind

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        y = self.input_layernorm(x)
        x = x + (self.self_attn(y, rope) if self.kind == "full_attention" else self.linear_attn(y))
        z: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return z


class Decoder(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s, kind) for kind in s.layer_types)
        self.norm = ZeroCentredNorm(s.hidden_size, s.rms_norm_eps)


class MtpBlock(nn.Module):
    """Multi-token prediction: fc over [embedding of the next token, hidden state], one full-attention layer."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * s.hidden_size, s.hidden_size, bias=False)
        self.pre_fc_norm_embedding = ZeroCentredNorm(s.hidden_size, s.rms_norm_eps)
        self.pre_fc_norm_hidden = ZeroCentredNorm(s.hidden_size, s.rms_norm_eps)
        self.layers = nn.ModuleList([Layer(s, "full_attention")])
        self.norm = ZeroCentredNorm(s.hidden_size, s.rms_norm_eps)

    def forward(self, embedded: Tensor, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = self.fc(torch.cat((self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)), -1))
        y: Tensor = self.norm(self.layers[0](x, rope))
        return y


class TrainableModel(nn.Module):
    """Tied-embedding language model with one MTP block."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.model = Decoder(s)
        self.mtp = MtpBlock(s)

    def rope(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        n = int(self.shape.head_dim * self.shape.partial_rotary_factor)
        inverse = self.shape.rope_theta ** (-torch.arange(0, n, 2, device=device).float() / n)
        angles = torch.arange(length, device=device).float()[:, None] * inverse
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [b, t] -> hidden states after the final norm [b, t, hidden]."""
        rope = self.rope(tokens.shape[1], tokens.device)
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, rope)
        hidden: Tensor = self.model.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)
