"""phys4d as a backend of diffusers' attention dispatcher, chosen by name as diffusers' own are.

    from phys4d.kernels.integrate.diffusers import register_backend

    register_backend()
    pipe.transformer.set_attention_backend("phys4d")

What is public in diffusers: `set_attention_backend`, `attention_backend`, the enumeration `AttentionBackendName` and
the environment variable DIFFUSERS_ATTN_BACKEND. A way to add a backend is not: the enumeration is closed, and the
registry `_AttentionBackendRegistry`, `_native_attention` and `_templated_context_parallel_attention`
(models/attention_dispatch.py) are private, as are the tables in which Python's Enum keeps its members.
`register_backend` checks that all of these have the form of diffusers 0.42 before it changes anything; with any other
form it raises and changes nothing.
"""

import inspect
import sys
import threading
from enum import Enum
from types import ModuleType
from typing import Any

from phys4d.kernels.attention.backends import BACKENDS
from phys4d.kernels.integrate.diffusers.dispatched import Dispatched, Serve, registered, set_report

NAME = "phys4d"
_MEMBER = "PHYS4D"
_REGISTRY = {"_backends": dict, "_constraints": dict, "_supported_arg_names": dict, "_supports_context_parallel": set}
_lock = threading.RLock()


def register_backend(backend: str = "auto") -> Dispatched:
    """Adds "phys4d" to the backends of diffusers' attention dispatcher; a second call changes nothing.

    Afterwards `model.set_attention_backend("phys4d")` and `attention_backend("phys4d")` compute the attention of every
    model that uses the dispatcher, alone, under torch.compile or in diffusers' context parallelism. With
    DIFFUSERS_ATTN_BACKEND=phys4d in the environment it is active at once; for that this function must be called before
    diffusers' models are imported, since diffusers refuses an unknown name on import. Calls that `attention` does not
    serve go to diffusers' NATIVE backend, with the reason in the report.

    Args:
        backend: of `attention`: "auto" or a name that `explain` gives.

    Returns:
        Dispatched: counts of the calls served and passed on, filled as calls are made.

    Raises:
        ValueError: no such backend, or registered already with another one.
        RuntimeError: the installed diffusers' dispatcher has another form; nothing was changed.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend {backend!r}: expected auto, {', '.join(BACKENDS)}")
    with _lock:
        if (report := registered()) is not None:
            if backend != report.backend:
                raise ValueError(f"backend {backend!r}: registered with {report.backend!r}; unregister_backend first")
            return report
        module, active = _import_dispatcher()
        _check_form(module)
        serve = Serve(backend)
        registry, member = module._AttentionBackendRegistry, _add_member(module.AttentionBackendName)
        registry._backends[member] = serve
        registry._constraints[member] = []
        registry._supported_arg_names[member] = set(inspect.signature(serve).parameters)
        registry._supports_context_parallel.add(NAME)
        if active:
            registry.set_active_backend(member)
        set_report(report := Dispatched(backend))
        return report


def unregister_backend() -> None:
    """Removes what `register_backend` added; without it nothing happens.

    Where "phys4d" is the active backend, NATIVE becomes active. Models on which `set_attention_backend("phys4d")` was
    called need `model.reset_attention_backend()` or another backend before their next call, which else raises KeyError.
    """
    with _lock:
        if registered() is None:
            return
        module: Any = sys.modules["diffusers.models.attention_dispatch"]
        names, registry = module.AttentionBackendName, module._AttentionBackendRegistry
        member = names(NAME)
        if registry._active_backend is member:
            registry.set_active_backend(names.NATIVE)
        registry._supports_context_parallel.discard(NAME)
        for table in ("_backends", "_constraints", "_supported_arg_names"):
            del getattr(registry, table)[member]
        _remove_member(names)
        set_report(None)


def backend_report() -> Dispatched:
    """The report of the registered backend; RuntimeError where it is not registered."""
    if (report := registered()) is None:
        raise RuntimeError("phys4d is not registered with diffusers' dispatcher: call register_backend")
    return report


def _import_dispatcher() -> tuple[ModuleType, bool]:
    """Diffusers' module of the dispatcher, and whether the environment asks for phys4d.

    The module looks the environment's name up on import, before a backend can be added: it is imported with "native" in
    that place.
    """
    from diffusers.utils import constants

    asked = constants.DIFFUSERS_ATTN_BACKEND
    if asked == NAME:
        constants.DIFFUSERS_ATTN_BACKEND = "native"
    try:
        from diffusers.models import attention_dispatch
    finally:
        constants.DIFFUSERS_ATTN_BACKEND = asked
    return attention_dispatch, asked == NAME


def _check_form(module: Any) -> None:
    """RuntimeError unless all that is used of the dispatcher has the form of diffusers 0.42."""
    import diffusers

    def check(right: bool, what: str) -> None:
        if not right:
            raise RuntimeError(
                f"diffusers {diffusers.__version__}: its attention dispatcher has another form than that of 0.42 "
                f"({what}); phys4d is not registered. `accelerate` and `sdpa` do not need it"
            )

    def parameters(name: str) -> set[str]:
        function = getattr(module, name, None)
        check(callable(function), f"no function {name}")
        return set(inspect.signature(function).parameters)  # type: ignore[arg-type]

    names, registry = getattr(module, "AttentionBackendName", None), getattr(module, "_AttentionBackendRegistry", None)
    check(isinstance(names, type) and issubclass(names, str) and issubclass(names, Enum), "no enumeration of names")
    tables = [getattr(names, table, None) for table in ("_member_map_", "_value2member_map_", "_member_names_")]
    check([type(table) for table in tables] == [dict, dict, list], "an enumeration of another kind")
    check("NATIVE" in names._member_map_, "no backend NATIVE")  # type: ignore[union-attr]
    check(NAME not in names._value2member_map_ and not hasattr(names, _MEMBER), f"it has a backend {NAME}")  # type: ignore[union-attr]
    for table, kind in _REGISTRY.items():
        check(isinstance(getattr(registry, table, None), kind), f"no table {table}")
    check(callable(getattr(registry, "set_active_backend", None)), "no set_active_backend")
    check(isinstance(getattr(registry, "_active_backend", None), names), "no _active_backend")  # type: ignore[arg-type]
    needed = set(inspect.signature(Serve("auto")).parameters)
    check(parameters("_native_attention") == needed, "a backend takes other arguments")
    check(parameters("dispatch_attention_fn") >= needed - {"return_lse", "_parallel_config"}, "dispatch_attention_fn")
    operation = set(inspect.signature(Serve("auto").forward).parameters)
    check(parameters("_native_attention_forward_op") == operation, "context parallelism passes other arguments")
    needed |= {"forward_op", "backward_op"}
    check(parameters("_templated_context_parallel_attention") == needed, "context parallelism takes other arguments")


def _add_member(names: Any) -> Any:
    """A new member "phys4d" of the enumeration, as its class statement would have made it."""
    member = str.__new__(names, NAME)
    member._name_, member._value_, member._sort_order_ = _MEMBER, NAME, len(names._member_names_)
    member.__objclass__ = names
    type.__setattr__(names, _MEMBER, member)
    names._member_names_.append(_MEMBER)
    names._member_map_[_MEMBER] = member
    names._value2member_map_[NAME] = member
    getattr(names, "_hashable_values_", []).append(NAME)  # later releases of Python 3.12
    return member


def _remove_member(names: Any) -> None:
    names._member_names_.remove(_MEMBER)
    del names._member_map_[_MEMBER], names._value2member_map_[NAME]
    if NAME in (values := getattr(names, "_hashable_values_", [])):
        values.remove(NAME)
    type.__delattr__(names, _MEMBER)
