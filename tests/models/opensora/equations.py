"""Open-Sora 1.2 in plain torch, from the equations of its public code: the truth that ours is held to."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.fc2", F.gelu(linear(w, f"{name}.fc1", x), approximate="tanh"))


def embedded(w: Weights, name: str, number: Tensor) -> Tensor:
    """[B] -> [B, C]: cosines, then sines, of number / 10000^(i / 128)."""
    angle = number.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(128).float() / 128)
    x = torch.cat([angle.cos(), angle.sin()], 1).to(w[f"{name}.mlp.0.weight"])
    return linear(w, f"{name}.mlp.2", F.silu(linear(w, f"{name}.mlp.0", x)))


def place(h: int, w: int, width: int, pixels: tuple[int, int], square: int) -> Tensor:
    """[h w, width], one token after the other."""
    scale, base = math.sqrt(pixels[0] * pixels[1]) / square, round(math.sqrt(h * w))
    rate = 1 / 10000 ** (torch.arange(0, width // 2, 2).double() / (width // 2))
    rows = []
    for i in range(h):
        for j in range(w):
            x, y = (n / scale * base / count * rate for n, count in ((j, w), (i, h)))
            rows.append(torch.cat([x.sin(), x.cos(), y.sin(), y.cos()]))
    return torch.stack(rows)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[..., S, D] -> [..., S, D]."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def turned(x: Tensor) -> Tensor:
    """x [..., T, D]: each pair of neighbouring channels turned by t / 10000^(2i / D)."""
    angle = torch.arange(x.shape[-2])[:, None] / 10000 ** (torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
    turns = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turns).flatten(-2)


def self_attention(w: Weights, name: str, x: Tensor, heads: int, temporal: bool) -> Tensor:
    """x [B, T, S, C]."""
    x = x.transpose(1, 2) if temporal else x
    q, k, v = linear(w, f"{name}.qkv", x).unflatten(-1, (3, heads, -1)).transpose(2, 4).unbind(3)
    q, k = (
        y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.{n}_norm.weight"]
        for y, n in ((q, "q"), (k, "k"))
    )
    if temporal:
        q, k = turned(q), turned(k)
    out = linear(w, f"{name}.proj", attend(q, k, v).transpose(2, 3).flatten(-2))
    return out.transpose(1, 2) if temporal else out


def cross_attention(w: Weights, name: str, x: Tensor, text: list[Tensor], heads: int) -> Tensor:
    """x [B, T, S, C]; text: [tokens, C] of each clip."""
    out = []
    for clip, tokens in zip(x, text, strict=True):
        q = linear(w, f"{name}.q_linear", clip.flatten(0, 1)).unflatten(-1, (heads, -1)).transpose(0, 1)
        k, v = linear(w, f"{name}.kv_linear", tokens).unflatten(-1, (2, heads, -1)).permute(1, 2, 0, 3)
        out.append(linear(w, f"{name}.proj", attend(q, k, v).transpose(0, 1).flatten(1)).view_as(clip))
    return torch.stack(out)


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def stdit3(
    w: Weights, heads: int, x: Tensor, timestep: Tensor, text: list[Tensor], fps: Tensor, pixels: tuple[int, int],
    noised: Tensor, depth: int, square: int = 512,
) -> Tensor:  # fmt: skip
    """Latents x [B, 4, T, H, W], timestep [B, T] of each frame by `noised` [B, T] -> [B, 8, T, H, W]."""
    b, c, t, h, width = x.shape[0], x.shape[1], x.shape[2], x.shape[3] // 2, x.shape[4] // 2
    tokens = F.conv3d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=(1, 2, 2))
    x = tokens.permute(0, 2, 3, 4, 1).flatten(2, 3)
    x = x + place(h, width, x.shape[-1], pixels, square)
    frames = torch.where(noised, timestep[:, None], 0.0).flatten()
    time = embedded(w, "t_embedder", frames) + embedded(w, "fps_embedder", fps).repeat_interleave(t, 0)
    modulation = linear(w, "t_block.1", F.silu(time)).unflatten(-1, (6, -1))
    text = [mlp(w, "y_embedder.y_proj", tokens) for tokens in text]
    for k in range(depth):
        for kind in ("spatial", "temporal"):
            name = f"{kind}_blocks.{k}"
            table = (modulation + w[f"{name}.scale_shift_table"]).view(b, t, 6, 1, -1)
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = table.unbind(2)
            y = self_attention(w, f"{name}.attn", normed(x) * (1 + scale) + shift, heads, kind == "temporal")
            x = x + gate * y
            x = x + cross_attention(w, f"{name}.cross_attn", x, text, heads)
            x = x + mlp_gate * mlp(w, f"{name}.mlp", normed(x) * (1 + mlp_scale) + mlp_shift)
    shift, scale = (time[:, None] + w["final_layer.scale_shift_table"]).view(b, t, 2, 1, -1).unbind(2)
    x = linear(w, "final_layer.linear", normed(x) * (1 + scale) + shift)
    return torch.einsum("bthwpqc->bcthpwq", x.view(b, t, h, width, 2, 2, 2 * c)).reshape(b, 2 * c, t, 2 * h, 2 * width)


def causal(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Zeros before the first frame, so many that a frame sees none after it."""
    weight = w[f"{name}.conv.weight"]
    k = weight.shape[2]
    x = F.pad(x, (k // 2,) * 4 + (k - stride, 0))
    return F.conv3d(x, weight, w.get(f"{name}.conv.bias"), stride=(stride, 1, 1))


def residual(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    y = x
    for k in (1, 2):
        y = F.group_norm(y, groups, w[f"{name}.norm{k}.weight"], w[f"{name}.norm{k}.bias"])
        y = causal(w, f"{name}.conv{k}", F.silu(y))
    return y + (causal(w, f"{name}.conv3", x) if f"{name}.conv3.conv.weight" in w else x)


def temporal_encode(w: Weights, x: Tensor, groups: int) -> Tensor:
    """One residual block everywhere, four widths, frames halved after the second and the third; x [B, 4, 4k, H, W]."""
    x = causal(w, "encoder.conv_in", x)
    for k in range(4):
        x = residual(w, f"encoder.block_res_blocks.{k}.0", x, groups)
        if k in (1, 2):
            x = causal(w, f"encoder.conv_blocks.{k}", x, 2)
    x = residual(w, "encoder.res_blocks.0", x, groups)
    x = F.silu(F.group_norm(x, groups, w["encoder.norm1.weight"], w["encoder.norm1.bias"]))
    return causal(w, "quant_conv", causal(w, "encoder.conv2", x))[:, :4]


def temporal_decode(w: Weights, z: Tensor, groups: int) -> Tensor:
    x = residual(w, "decoder.res_blocks.0", causal(w, "decoder.conv1", causal(w, "post_quant_conv", z)), groups)
    for k in (3, 2, 1, 0):
        x = residual(w, f"decoder.block_res_blocks.{k}.0", x, groups)
        if k in (3, 2):
            x = causal(w, f"decoder.conv_blocks.{k - 1}", x)
            x = torch.stack([x[:, 0::2], x[:, 1::2]], 3).flatten(2, 3)
    x = F.silu(F.group_norm(x, groups, w["decoder.norm1.weight"], w["decoder.norm1.bias"]))
    return causal(w, "decoder.conv_out", x)
