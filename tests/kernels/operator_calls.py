"""One small call of every operator, all its tensors by name (over 300 lines: one table).

What holds for all operators is tested over this table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import geometry
from phys4d.kernels.attention import (
    Full,
    Spatial,
    Temporal,
    Window,
    attention,
    attention_backward,
    attention_packed,
    attention_reference,
    attention_varlen,
)
from phys4d.kernels.dispatch import INTERPRETED
from phys4d.kernels.elementwise import QKNorm, Rope, TokenRows, adaptive_norm, norm_rope

GRID = (3, 2, 2)


@dataclass(frozen=True)
class OperatorCall:
    """An operator and the tensors of one call.

    Attributes:
        function: (backend, **tensors) to one or several tensors; it computes the definition for "reference", and for
            float64 where it has no backends.
        tensors: its arguments by name; floating ones are float32.
        leaves: those in which it is differentiable.
        rows: those of which the last dimension must be contiguous.
        whole: those that must keep their values: expanded only where that does not change them.
        kernels: whether it launches Triton kernels that no other call here does.
    """

    function: Callable[..., Any]
    tensors: dict[str, Tensor]
    leaves: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    kernels: bool = True

    def outputs(self, backend: str, tensors: dict[str, Tensor]) -> list[Tensor]:
        """The results, None left out."""
        found = self.function(backend, **tensors)
        return [found] if isinstance(found, Tensor) else [t for t in found if t is not None]

    def exactly(self, tensors: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Results and leaves of the definition in float64, of tensors with strides of their own."""
        exact = {name: doubled(t) for name, t in tensors.items()}
        leaves = {name: exact[name].requires_grad_() for name in self.leaves}
        return self.outputs("reference", exact), leaves


def doubled(tensor: Tensor) -> Tensor:
    """A contiguous copy, float64 where it is floating."""
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensor.double() if tensor.is_floating_point() else tensor


_generator = torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator)


def _positive(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator) + 1


def _mask(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator) < 0.7


def _kernel(backend: str) -> str:
    """Attention's name of the backend under test."""
    return "triton" if INTERPRETED and backend == "auto" else backend


def _attend(pattern: Any, text: Any = None) -> Callable[..., Any]:
    def call(backend: str, q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor) -> Any:
        return attention(
            q, k, v, grid=GRID, pattern=pattern, text=text, key_lengths=key_lengths, return_lse=True,
            backend=_kernel(backend),
        )  # fmt: skip

    return call


def _masked(pattern: Any) -> Callable[..., Any]:
    def call(backend: str, q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor, mask: Tensor) -> Any:
        return attention(
            q, k, v, pattern=pattern, key_lengths=key_lengths, mask=mask, return_lse=True, backend=_kernel(backend)
        )  # fmt: skip

    return call


def _sequences(backend: str, **tensors: Tensor) -> Any:
    return attention_varlen(**tensors, max_seqlen=6, max_seqlen_k=6, backend=_kernel(backend))


def _fused(backend: str, q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor, **rest: Tensor) -> Any:
    norm = QKNorm("layer", rest["q_weight"], rest["k_weight"], rest["q_bias"], rest["k_bias"])
    rope = Rope((rest["time"], rest["height"], rest["width"]))
    return attention(
        q, k, v, grid=GRID, pattern=Temporal(), key_lengths=key_lengths, qk_norm=norm, rope=rope,
        backend=_kernel(backend),
    )  # fmt: skip


def _packed(backend: str, qkv: Tensor, key_lengths: Tensor) -> Any:
    return attention_packed(
        qkv, grid=GRID, pattern=Temporal(causal=True), key_lengths=key_lengths, backend=_kernel(backend)
    )


def _back(backend: str, **tensors: Tensor) -> Any:
    return attention_backward(**tensors)


def _norm_rope(backend: str, x: Tensor, weight: Tensor, bias: Tensor, **tables: Tensor) -> Any:
    rope = Rope((tables["time"], tables["height"], tables["width"]))
    return norm_rope(x, weight, bias, "layer", 1e-6, rope, GRID)


def _adaptive(backend: str, **given: Tensor) -> Any:
    rows = TokenRows(*(given.pop(name) for name in ("index", "order", "forward", "backward", "begins")))
    return adaptive_norm(**given, rows=rows)


def _named(name: str, **options: Any) -> Callable[..., Any]:
    """A function of geometry with a backend."""
    function = getattr(geometry, name)
    return lambda backend, **tensors: function(**tensors, **options, backend=backend)


def _plain(name: str, **options: Any) -> Callable[..., Any]:
    """A function of geometry in plain torch."""
    function = getattr(geometry, name)
    return lambda backend, **tensors: function(**tensors, **options)


def _calls() -> dict[str, OperatorCall]:
    q, k, v = (_normal(2, 12, 2, 16) for _ in range(3))
    with_text = {name: _normal(2, 14, 2, 16) for name in "qkv"}
    lengths = torch.tensor([9, 12])
    across = {"q": _normal(2, 5, 2, 16), "k": _normal(2, 7, 2, 16), "v": _normal(2, 7, 2, 16)}
    few = torch.tensor([4, 7])
    out, lse = attention_reference(*across.values(), key_lengths=few)
    tables = dict(zip(("time", "height", "width"), Rope.make(GRID, (8, 4, 4)).tables, strict=True))
    affine = {name: _normal(16) for name in ("q_weight", "k_weight", "q_bias", "k_bias")}
    rows = TokenRows.of(torch.randint(3, (2, 6), generator=_generator), 3)
    plan = {name: getattr(rows, name) for name in ("index", "order", "forward", "backward", "begins")}
    depth, motion = _positive(2, 3, 4, 5), _normal(2, 3, 2, 4, 5) * 0.3
    frames, flow = _normal(2, 3, 2, 4, 5), _normal(2, 2, 2, 4, 5)
    pixels, intrinsics = _mask(2, 2, 4, 5), torch.eye(3).repeat(2, 3, 1, 1) * torch.tensor([4.0, 5.0, 1.0])
    camera = torch.eye(4).repeat(2, 3, 1, 1) + _normal(2, 3, 4, 4) * 0.1
    cloud, other = _normal(2, 6, 3), _normal(2, 7, 3)
    clouds = {"x": cloud, "y": other, "x_lengths": torch.tensor([4, 6]), "y_lengths": torch.tensor([7, 5])}
    moving = {"x": _normal(2, 3, 6, 3), "y": _normal(2, 3, 7, 3)}
    counts = {"x_lengths": torch.tensor([[4, 6, 5], [6, 1, 2]]), "y_lengths": torch.tensor([[7, 5, 6], [3, 7, 4]])}
    qkv: Any = {"leaves": ("q", "k", "v"), "rows": ("q", "k", "v")}
    both: Any = {"leaves": ("x", "y")}
    return {
        "attention of rows": OperatorCall(_attend(Temporal()), {"q": q, "k": k, "v": v, "key_lengths": lengths}, **qkv),
        "attention of rows, norm and rotation": OperatorCall(
            _fused, {"q": q, "k": k, "v": v, "key_lengths": lengths, **affine, **tables},
            ("q", "k", "v", *affine), ("q", "k", "v"),
        ),
        "attention of rows, packed": OperatorCall(
            _packed, {"qkv": _normal(2, 12, 3, 2, 16), "key_lengths": lengths}, ("qkv",), ("qkv",)
        ),
        "attention across": OperatorCall(_attend(Full()), {**across, "key_lengths": few}, **qkv),
        "attention with text": OperatorCall(
            _attend(Spatial(), (2, "first")), {**with_text, "key_lengths": torch.tensor([11, 1])}, **qkv
        ),
        "attention in windows": OperatorCall(
            _attend(Window(2, 1, 2), (2, "last")), {**with_text, "key_lengths": torch.tensor([13, 6])}, **qkv
        ),
        "attention of shared heads, masked": OperatorCall(
            _masked(Full(causal=True)),
            {
                "q": _normal(2, 9, 4, 16), "k": _normal(2, 7, 2, 16), "v": _normal(2, 7, 2, 16), "key_lengths": few,
                "mask": _mask(2, 4, 9, 7),
            },
            **qkv,
        ),
        "attention of shared heads, biased": OperatorCall(
            _masked(Full()),
            {
                "q": _normal(2, 9, 4, 16), "k": _normal(2, 7, 2, 16), "v": _normal(2, 7, 2, 16), "key_lengths": few,
                "mask": _normal(2, 4, 9, 7),
            },
            **qkv,
        ),
        "attention_varlen": OperatorCall(
            _sequences,
            {
                "q": _normal(12, 4, 16), "k": _normal(11, 2, 16), "v": _normal(11, 2, 16),
                "cu_seqlens": torch.tensor([0, 5, 11]), "cu_seqlens_k": torch.tensor([1, 4, 10]),
            },
            ("q", "k", "v"), whole=("cu_seqlens", "cu_seqlens_k"), kernels=False,
        ),
        "attention_backward": OperatorCall(
            _back,
            {
                **across, "out": out, "lse": lse, "dout": _normal(*out.shape), "dlse": _normal(*lse.shape),
                "key_lengths": few,
            },
            rows=("q", "k", "v"),
        ),
        "norm_rope": OperatorCall(
            _norm_rope, {"x": q, "weight": affine["q_weight"], "bias": affine["q_bias"], **tables},
            ("x", "weight", "bias"), ("x",),
        ),
        "adaptive_norm": OperatorCall(
            _adaptive,
            {
                "x": _normal(2, 6, 40), "y": _normal(2, 6, 40), "gate": _normal(3, 40), "weight": _normal(40),
                "bias": _normal(40), "scale": _normal(3, 40), "shift": _normal(3, 40), **plan,
            },
            ("x", "y", "gate", "weight", "bias", "scale", "shift"), ("x", "y", "gate", "scale", "shift"), tuple(plan),
        ),
        "unproject": OperatorCall(
            _plain("unproject"), {"depth": depth, "intrinsics": intrinsics, "camera_to_world": camera},
            ("depth", "intrinsics", "camera_to_world"), whole=("intrinsics",), kernels=False,
        ),
        "flow_warp": OperatorCall(_named("flow_warp"), {"frames": frames, "flow": flow}, ("frames", "flow")),
        "splat": OperatorCall(
            _named("splat"), {"values": frames, "flow": flow, "depth": depth[:, 1:].contiguous(), "valid": pixels},
            ("values", "depth"),
        ),
        "forward_backward_mask": OperatorCall(
            _plain("forward_backward_mask"), {"forward": flow[:, :, 0].contiguous(), "backward": flow[:, :, 1] * 0.5},
            kernels=False,
        ),
        "occlusion_mask": OperatorCall(
            _named("occlusion_mask"), {"depth": depth, "motion": motion, "valid": _mask(2, 3, 4, 5)}, kernels=False
        ),
        "lift_4d": OperatorCall(
            _named("lift_4d"),
            {
                "depth": depth, "motion": motion, "intrinsics": intrinsics, "camera_to_world": camera,
                "rgb": _normal(2, 3, 3, 4, 5), "instance": torch.randint(2, (2, 3, 4, 5), generator=_generator),
                "valid": _mask(2, 3, 4, 5), "visible": pixels,
            },
            ("depth", "motion"), whole=("intrinsics",),
        ),
        "depth_losses": OperatorCall(
            _named("depth_losses", scales=2),
            {
                "predicted": depth, "target": _positive(2, 3, 4, 5), "valid": _mask(2, 3, 4, 5),
                "weight": _positive(2, 3, 4, 5),
            },
            ("predicted",),
        ),
        "flow_loss": OperatorCall(
            _named("flow_loss", kind="laplace"),
            {
                "predicted": flow, "target": _normal(2, 2, 2, 4, 5), "valid": pixels, "weight": _positive(2, 2, 4, 5),
                "confidence": _normal(2, 2, 2, 4, 5),
            },
            ("predicted", "confidence"),
        ),
        "scene_flow_loss": OperatorCall(
            _named("scene_flow_loss"),
            {
                "depth": depth, "motion": motion, "true_depth": _positive(2, 3, 4, 5),
                "true_motion": _normal(2, 3, 2, 4, 5), "valid": pixels, "weight": _positive(2, 2, 4, 5),
                "intrinsics": intrinsics,
            },
            ("depth", "motion"), whole=("intrinsics",),
        ),
        "warp_consistency": OperatorCall(
            _named("warp_consistency"),
            {"depth": depth, "motion": motion, "visible": pixels, "weight": _positive(2, 2, 4, 5)}, ("depth", "motion"),
        ),
        "warp_consistency, backward form": OperatorCall(
            _named("warp_consistency", loss="squared", border="clamp"),
            {"depth": depth, "motion": motion, "visible": pixels, "truth": _positive(2, 3, 4, 5)}, ("depth", "motion"),
        ),
        "chamfer": OperatorCall(_named("chamfer"), clouds, **both),
        "chamfer_4d": OperatorCall(_named("chamfer_4d"), {**moving, **counts}, **both, kernels=False),
        "chamfer_spacetime": OperatorCall(
            _named("chamfer_spacetime", speed=1.0),
            {**moving, "x_times": _positive(3), "y_times": _positive(3), **counts}, ("x", "y", "x_times", "y_times"),
            kernels=False,
        ),
        "chamfer_motion": OperatorCall(
            _named("chamfer_motion"), {**moving, "x_lengths": clouds["x_lengths"], "y_lengths": clouds["y_lengths"]},
            **both,
        ),
        "chamfer_objects": OperatorCall(
            _plain("chamfer_objects"), {**clouds, "objects": torch.randint(3, (2, 7), generator=_generator)},
            kernels=False,
        ),
        "nearest": OperatorCall(_named("nearest"), {"x": cloud[0].contiguous(), "y": other[0].contiguous()}),
        "umeyama": OperatorCall(
            _plain("umeyama", scaled=True), {"x": _normal(2, 12, 3), "y": _normal(2, 12, 3), "valid": _mask(2, 12)},
            kernels=False,
        ),
    }  # fmt: skip


CALLS = _calls()
DIFFERENTIABLE = [name for name, call in CALLS.items() if call.leaves]
WITH_KERNELS = [name for name, call in CALLS.items() if call.kernels]
