"""FlexAttention runs compiled or not at all, with the kernels that were asked for."""

import pytest
import torch

from phys4d.kernels.attention import Full, Window, api
from phys4d.kernels.attention.backends import BACKENDS, flex
from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import compute_capability

FULL = Full()


def call(pattern=FULL, make=torch.zeros):
    q, k, v = (make(1, 24, 2, 16, dtype=torch.bfloat16) for _ in "qkv")
    return Call(q, k, v, (2, 3, 4), pattern, None, None, None, False)


def test_it_is_refused_where_the_compiler_is_switched_off(monkeypatch):
    asked = call()
    assert BACKENDS["flex"].refusal(asked) is None
    with (
        torch._dynamo.config.patch(disable=True),
        pytest.raises(ValueError, match="'flex' cannot serve this call: torch.compile is switched off"),
    ):
        api.choose(asked, "flex")


@pytest.mark.parametrize("pattern", [FULL, Window(2, 2, 2)])
def test_it_never_runs_unfused(pattern):
    flex._block_mask.cache_clear()
    flex._flex_attention.cache_clear()
    with torch.compiler.set_stance("force_eager"), pytest.raises(RuntimeError, match="unfused it would keep every"):
        BACKENDS["flex"].run(call(pattern))


@pytest.mark.slow
def test_variants_are_counted_for_each_function_and_too_many_are_an_error():
    with torch._dynamo.config.patch(recompile_limit=1):
        add, other = flex._fused(torch.add), flex._fused(torch.add)
        for function, size in ((add, 2), (other, 3)):
            assert torch.equal(function(torch.ones(size), torch.ones(size)), torch.full((size,), 2.0))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            add(torch.ones(4), torch.ones(4))


@pytest.mark.parametrize(
    ("name", "capability", "options", "block"),
    [
        ("flex", (9, 0), None, (128, 128)),
        ("flex", (10, 0), None, (128, 128)),
        ("flex-flash", (9, 0), {"BACKEND": "FLASH"}, (128, 128)),
        ("flex-flash", (10, 0), {"BACKEND": "FLASH"}, (256, 128)),
    ],
)
def test_the_kernels_asked_for_are_passed_on(h200, monkeypatch, name, capability, options, block):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    compute_capability.forget()
    seen = []
    monkeypatch.setattr(flex, "_block_mask", lambda *arguments: arguments)

    def attend(q, k, v, **arguments):
        seen.append(arguments)
        return v

    monkeypatch.setattr(flex, "_flex_attention", lambda *shape: attend)
    asked = call(Window(2, 2, 2), make=h200)
    BACKENDS[name].run(asked)
    monkeypatch.undo()
    compute_capability.forget()
    assert seen[0]["kernel_options"] == options and seen[0]["block_mask"][-1] == block
    assert seen[0]["block_mask"][:2] == (Window(2, 2, 2), (2, 3, 4))
