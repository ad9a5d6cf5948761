"""What people do to a model before or after it is accelerated: adapters, offloading, caches, hooks, copies.

Each situation takes a model and returns what is called in its place, with the model's arguments.
"""

import contextlib
import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from phys4d.kernels.integrate.diffusers.report import has_processor


class LeftOut(Exception):
    """A situation that this model does not know, or a package that is not installed."""


def _needed(model: nn.Module, method: str) -> Any:
    if not hasattr(model, method):
        raise LeftOut(f"{type(model).__name__} has no {method}")
    return getattr(model, method)


def norms(model: nn.Module) -> Iterator[nn.Module]:
    """All norms inside of attention modules and blocks."""
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if "norm" in name and "blocks." in path and not list(module.children()):
            yield module


def hooked(model: Any) -> Any:
    """A forward hook on every norm that changes its result."""
    for norm in norms(model):
        norm.register_forward_hook(lambda module, arguments, out: 1.5 * out)
    return model


def replaced(model: Any) -> Any:
    """Another forward on every norm."""
    for norm in norms(model):
        own = norm.forward
        norm.forward = lambda x, own=own: 0.5 * own(x)
    return model


class _Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight


def parametrised(model: Any) -> Any:
    """Every norm with weights holds them through a parametrisation."""
    for norm in norms(model):
        if getattr(norm, "weight", None) is not None:
            parametrize.register_parametrization(norm, "weight", _Halved())
    return model


_COMPUTING = (
    nn.functional.layer_norm, nn.functional.rms_norm, nn.functional.linear, Tensor.mul, Tensor.__mul__, Tensor.__rmul__,
)  # fmt: skip


class WrappedWeight(Tensor):
    """A weight of another class, as quantised ones are, that stands for twice the numbers that it holds."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _COMPUTING:
            return super().__torch_function__(func, types, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            arguments = [2 * a.as_subclass(Tensor) if isinstance(a, WrappedWeight) else a for a in args]
            return func(*arguments, **(kwargs or {}))


def quantised(model: Any) -> Any:
    """Weights of norms of queries and keys, and of the projections before them, of another tensor class."""
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if name in ("norm_q", "norm_k", "to_q", "to_k") and getattr(module, "weight", None) is not None:
            weight = module.weight.detach().as_subclass(WrappedWeight)
            module.weight = nn.Parameter(weight, requires_grad=False)
    return model


def adapted(model: Any) -> Any:
    """LoRA on the projections of attention."""
    try:
        import peft
    except ImportError as fault:
        raise LeftOut("peft is not installed") from fault
    names = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name in ("to_q", "to_k", "to_v", "to_out.0", "to_query", "to_key", "to_value", "out_layer")
        if has_processor(module) and getattr(module, name.partition(".")[0], None) is not None
    }
    torch.manual_seed(3)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=sorted(names), init_lora_weights=False), model
    )
    return model


def fused(model: Any) -> Any:
    """Projections of queries, keys and values fused by diffusers."""
    _needed(model, "fuse_qkv_projections")()
    return model


def offloaded(model: Any) -> Any:
    """Weights on meta between calls, as pipelines' enable_sequential_cpu_offload does."""
    _accelerate().cpu_offload(model, execution_device="cpu")
    return model


def dispatched(model: Any) -> Any:
    """Weights of blocks and of what surrounds them placed by accelerate's dispatch_model."""
    parts = [*model.named_children(), *model.named_parameters(recurse=False)]
    places = dict.fromkeys([name for name, _ in parts], "cpu")
    with warnings.catch_warnings():  # it wants a place for parameters that are in no layer, and warns of them
        warnings.filterwarnings("ignore", "The following device_map keys do not match any submodules")
        return _accelerate().dispatch_model(model, places, main_device="cpu", force_hooks=True)


def _accelerate() -> Any:
    try:
        import accelerate
    except ImportError as fault:
        raise LeftOut("accelerate is not installed") from fault
    return accelerate


def leaves_on_disk(model: Any) -> Any:
    """Weights of single layers on disk between calls, by diffusers' group offloading."""
    folder = tempfile.mkdtemp(prefix="phys4d-offload-")
    _needed(model, "enable_group_offload")(
        torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=folder
    )
    return model


def blocks_offloaded(model: Any) -> Any:
    """Weights of whole blocks on disk between calls."""
    folder = tempfile.mkdtemp(prefix="phys4d-offload-")
    _needed(model, "enable_group_offload")(
        torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1, offload_to_disk_path=folder
    )
    return model


def cast_by_layer(model: Any) -> Any:
    """Weights held in bfloat16 and cast to float32 for each call of a layer, norms too."""
    _needed(model, "enable_layerwise_casting")(
        storage_dtype=torch.bfloat16, compute_dtype=torch.float32, skip_modules_pattern=("no module",)
    )
    return model


def first_block_cached(model: Any) -> Any:
    """diffusers' FirstBlockCache, which computes everything at a threshold of 0."""
    from diffusers import FirstBlockCacheConfig

    return _cached(model, FirstBlockCacheConfig(threshold=0.0))


def magnitude_cached(model: Any) -> Any:
    """diffusers' MagCache, which skips blocks whose residual would change little."""
    from diffusers import MagCacheConfig

    return _cached(model, MagCacheConfig(mag_ratios=torch.ones(4), num_inference_steps=4, retention_ratio=0.2))


def faster_cached(model: Any) -> Any:
    """diffusers' FasterCache, which computes everything at the timesteps before its range."""
    from diffusers import FasterCacheConfig

    config = FasterCacheConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 681),
        attention_weight_callback=lambda _: 0.5, current_timestep_callback=lambda: 900, is_guidance_distilled=True,
        tensor_format="BFCHW" if "CogVideoX" in type(model).__name__ else "BCFHW",
    )  # fmt: skip
    return _cached(model, config)


def broadcast(model: Any) -> Any:
    """diffusers' PyramidAttentionBroadcast: every second call takes attention from the one before."""
    from diffusers import PyramidAttentionBroadcastConfig

    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(100, 800),
        current_timestep_callback=lambda: 500,
    )  # fmt: skip
    return _cached(model, config)


def _cached(model: Any, config: Any) -> Any:
    try:
        _needed(model, "enable_cache")(config)
    except ValueError as fault:  # caches know some classes of blocks only
        raise LeftOut(str(fault)) from fault

    def call(**arguments: Any) -> Any:
        with model.cache_context("one"):
            return model(**arguments)

    call.reset = model._reset_stateful_cache  # type: ignore[attr-defined]
    return call


def checkpointed(model: Any) -> Any:
    """Blocks computed again in the backward pass."""
    _needed(model, "enable_gradient_checkpointing")()
    return model


def compiled(model: Any) -> Any:
    """Attention modules and blocks compiled, each in one piece."""
    for path, module in model.named_modules():
        children = [child for _, child in module.named_children()]
        if any(has_processor(child) for child in children) and path.rpartition(".")[2].isdigit():
            module.compile(backend="aot_eager", fullgraph=True)
    return model


def copied(model: Any) -> Any:
    """A copy of the model."""
    return copy.deepcopy(model)


def pickled(model: Any) -> Any:
    """A model read from a file that torch.save wrote."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    pickle.dumps(model)
    return torch.load(file, weights_only=False)


SITUATIONS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda model: model,
    "hooks on norms": hooked,
    "replaced norms": replaced,
    "parametrised norms": parametrised,
    "quantised weights": quantised,
    "LoRA": adapted,
    "fused projections": fused,
    "sequential offload": offloaded,
    "dispatch": dispatched,
    "leaves on disk": leaves_on_disk,
    "blocks on disk": blocks_offloaded,
    "cast by layer": cast_by_layer,
    "first block cache": first_block_cached,
    "magnitude cache": magnitude_cached,
    "faster cache": faster_cached,
    "attention broadcast": broadcast,
    "checkpointing": checkpointed,
    "compile": compiled,
    "copy": copied,
    "pickle": pickled,
}
WITHOUT_GRADIENTS = (
    "quantised weights", "sequential offload", "dispatch", "leaves on disk", "blocks on disk", "cast by layer",
    "first block cache", "magnitude cache", "faster cache", "attention broadcast",
)  # fmt: skip
COPIES = ("copy", "pickle")
OWN_PROCESSORS = ("fused projections",)  # in which diffusers may set processors of its own
SLOW = ("compile",)


@contextlib.contextmanager
def without_stored_offloads() -> Iterator[None]:
    """Deletes the folders of offloaded weights at the end."""
    own = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="phys4d-situation-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = own
