"""Runs a `phys4d` command with every tensor of the model on the stand-in device of stand_in.cpp.

python stand_in.py LIBRARY COMMAND ...      the command line of phys4d, which finds the device as it finds a GPU
"""

import sys
import types
from contextlib import nullcontext

import torch

NAME = "standin"
_KEPT: list[torch.library.Library] = []  # what is registered lasts as long as these


class Stream:
    """A queue in which all work is done already: operators of the stand-in return when they have computed."""

    def wait_stream(self, other: "Stream") -> None:
        return None

    def synchronize(self) -> None:
        return None


def _autocast() -> list[torch.library.Library]:
    """Autocast as on a GPU: the products that the models use in bf16, everything else as it comes."""
    rest = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    rest.fallback(torch.library.fallthrough_kernel)
    products = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    off = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def lower(operator):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            def cast(value):  # type: ignore[no-untyped-def]
                moved = isinstance(value, torch.Tensor) and value.is_floating_point()
                return value.to(torch.get_autocast_dtype(NAME)) if moved else value

            with torch._C._ExcludeDispatchKeyGuard(off):
                return operator(*map(cast, arguments), **{name: cast(value) for name, value in options.items()})

        return call

    for name in ("linear", "matmul", "bmm", "addmm", "scaled_dot_product_attention"):
        products.impl(name, lower(getattr(torch.ops.aten, name)))
    return [rest, products]


def register(library: str) -> torch.device:
    """Makes the device known to torch under the name `standin`."""
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True  # type: ignore[attr-defined]
    module.device_count = lambda: 1  # type: ignore[attr-defined]
    module.current_device = lambda: 0  # type: ignore[attr-defined]
    module._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
    module.manual_seed_all = lambda seed: None  # type: ignore[attr-defined]
    module.current_stream = lambda device=None: Stream()  # type: ignore[attr-defined]
    module.stream = lambda stream: nullcontext()  # type: ignore[attr-defined]
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    _KEPT.extend(_autocast())
    return torch.device(NAME, 0)


def refuse_what_is_left_behind(device: torch.device) -> None:
    """Makes each evaluation of a world model check all its tensors, those of codec and text encoder too."""
    from phys4d.models.world import WorldModel

    def checked(method):  # type: ignore[no-untyped-def]
        def call(self: WorldModel, *arguments, **options):  # type: ignore[no-untyped-def]
            for name, tensor in (*self.named_parameters(), *self.named_buffers()):
                assert tensor.device == device, f"{name} was left on {tensor.device}"
            return method(self, *arguments, **options)

        return call

    for name in ("predict", "read_geometry"):
        setattr(WorldModel, name, checked(getattr(WorldModel, name)))


def main() -> int:
    torch.set_num_threads(1)  # as in the process that the numbers are compared with
    device = register(sys.argv[1])
    from phys4d.cli import main as phys4d
    from phys4d.engine.distributed.parallel import Parallel

    assert Parallel.start().device == device
    refuse_what_is_left_behind(device)
    return phys4d(sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(main())
