"""The scene flow loss: closed forms, every backend against the definition in float64, masks, skew, threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import advect, scene_flow_loss, unproject
from phys4d.kernels.geometry.losses.scene_flow_ops import scene_flow_op

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
built = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])


def example(clips=2, frames=3, height=5, width=9, *, seed=0, dtype=torch.float64, scale=1.0) -> dict[str, Tensor]:
    """Arguments by name: depth and motion in units of `scale`, cameras that differ and are skewed, NaN where masked."""
    generator = torch.Generator().manual_seed(seed)
    images, pairs = (clips, frames, height, width), (clips, frames - 1, height, width)
    channels = (clips, 3, *pairs[1:])

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    made = {"true_depth": 1 + 3 * random(images), "true_motion": random(channels) - 0.5}
    made["depth"] = made["true_depth"] * (0.9 + 0.2 * random(images))
    made["motion"] = made["true_motion"] + 0.4 * random(channels) - 0.2
    for name in ("motion", "true_motion"):
        made[name][:, 2] *= scale
        made[name][:, :2] *= 4
    camera = torch.tensor([[60.0, 3, width / 2], [0, 55, height / 2], [0, 0, 1]], dtype=torch.float64)
    made["intrinsics"] = camera.repeat(clips, frames, 1, 1)
    made["intrinsics"][..., :2, :] += 0.1 * random((clips, frames, 2, 3))
    made["intrinsics"][..., 1, 0] = 0
    made["weight"] = random(pairs)
    valid = random(pairs) > 0.25
    right = (random(pairs) < 0.1).unsqueeze(1)
    made["motion"] = torch.where(right, made["true_motion"], made["motion"])
    made["depth"][:, :-1] = torch.where(right[:, 0], made["true_depth"][:, :-1], made["depth"][:, :-1])  # no error
    for name in ("depth", "true_depth"):
        made[name] *= scale
        made[name][:, :-1].masked_fill_(~valid, torch.nan)
        made[name][:, -1] = torch.nan
    for name in ("motion", "true_motion"):
        made[name].masked_fill_(~valid.unsqueeze(1), torch.nan)
    made["weight"].masked_fill_(~valid, torch.nan)
    return {name: t.to(dtype) for name, t in made.items()} | {"valid": valid}


def results(made: dict[str, Tensor], **asked) -> list[Tensor]:
    """Value, d_depth, d_motion."""
    leaves = {name: made[name].detach().requires_grad_() for name in ("depth", "motion")}
    value = scene_flow_loss(**(made | leaves), **asked)
    return [value.detach(), *torch.autograd.grad(value, list(leaves.values()))]


def of(made: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t if name == "valid" else t.to(dtype) for name, t in made.items()}


def agrees(backend: str, made: dict[str, Tensor]) -> None:
    """In float64 to the last digits that the definition has, in float32 as well as torch."""
    exact = results(of(made, torch.float64), backend="reference")
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-10)):
        found = (results(of(made, dtype), backend=b) for b in (backend, "reference"))
        for mine, other, true in zip(*found, exact, strict=True):
            assert mine.isfinite().all()
            size = true.abs().max() if true.numel() else 0
            error, fault = ((t.double() - true).abs().max() if true.numel() else 0 for t in (mine, other))
            assert error <= 2 * fault + tolerance * size


@built
@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 300)),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_native_code_is_as_exact_as_torch_would_be(sizes, seed: int, scale: float) -> None:
    agrees("native", example(*sizes, seed=seed, scale=scale, dtype=torch.float32))


@pytest.mark.interpreted
@pytest.mark.parametrize(("sizes", "scale"), [((2, 3, 5, 131), 1.0), ((1, 2, 1, 1), 1e4), ((1, 3, 9, 2), 1e-4)])
def test_the_kernels_compute_the_definition(sizes, scale: float, device: torch.device) -> None:
    made = example(*sizes, scale=scale, dtype=torch.float32)
    agrees("triton", {name: t.to(device) for name, t in made.items()})


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_the_distance_of_displacements(backend: str) -> None:
    torch.manual_seed(0)
    intrinsics = torch.tensor([[50.0, 0, 4], [0, 50, 3], [0, 0, 1]], dtype=torch.float64).expand(1, 3, 3, 3)
    depth = torch.rand(1, 3, 6, 8, dtype=torch.float64) + 2
    motion, other = (torch.randn(1, 3, 2, 6, 8, dtype=torch.float64) * 0.3 for _ in range(2))
    valid, closer = torch.rand(1, 2, 6, 8) > 0.3, depth * 0.9

    def flow(depth: Tensor, motion: Tensor) -> Tensor:
        return advect(depth, motion, intrinsics) - unproject(depth, intrinsics)[:, :-1]

    expected = (flow(closer, other) - flow(depth, motion)).norm(dim=-1)[valid].mean()
    rest = (depth, motion, valid, intrinsics)
    assert scene_flow_loss(closer, other, *rest, backend=backend).item() == pytest.approx(expected.item())
    assert scene_flow_loss(depth, motion, *rest, backend=backend) == 0
    along = motion.clone()
    along[:, 2] += 0.25  # straight away from a pixel at the principal point; longer beside it
    assert 0.25 <= scene_flow_loss(depth, along, *rest, backend=backend) < 0.26


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_those_of_the_value(backend: str) -> None:
    made = example(1, 3, 2, 3)
    visible = {"depth": made["valid"], "motion": made["valid"].unsqueeze(1)}
    leaves = [made["depth"].nan_to_num(1.0) + 0.3, made["motion"].nan_to_num(0.0) + 0.05 * visible["motion"]]

    def value(depth: Tensor, motion: Tensor) -> Tensor:
        return scene_flow_loss(**(made | {"depth": depth, "motion": motion}), backend=backend)

    assert torch.autograd.gradcheck(value, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_masked_or_right_or_weightless_gets_no_gradient(backend: str) -> None:
    made = example()
    _, d_depth, d_motion = results(made, backend=backend)
    right = (made["motion"] == made["true_motion"]).all(1) & (made["depth"] == made["true_depth"])[:, :-1]
    still = ~made["valid"] | right
    assert right.any() and not d_depth[:, :-1][still].any() and not d_depth[:, -1].any()
    assert not d_motion[still.unsqueeze(1).expand_as(d_motion)].any()
    nothing = made | {"valid": torch.zeros_like(made["valid"])}
    for changed in (nothing, made | {"weight": torch.zeros_like(made["weight"])}):
        assert not any(numbers.any() for numbers in results(changed, backend=backend))


@pytest.mark.interpreted
def test_the_kernels_leave_alone_what_is_masked_and_give_the_same_bits_again(device: torch.device) -> None:
    made = {name: t.to(device) for name, t in example(1, 3, 5, 140, dtype=torch.float32).items()}
    turned = {n: t.transpose(-1, -2).contiguous().transpose(-1, -2) for n, t in made.items()}
    first, *others = (results(m, backend="triton") for m in (made, made, turned))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    for changed in ({"valid": torch.zeros_like(made["valid"])}, {"weight": torch.zeros_like(made["weight"])}):
        assert not any(numbers.any() for numbers in results(made | changed, backend="triton"))
    single = {name: t[:, :1] if name.endswith(("depth", "intrinsics")) else t[:, :0] for name, t in made.items()}
    single |= {name: made[name][:, :, :0] for name in ("motion", "true_motion")}
    assert not any(numbers.any() for numbers in results(single, backend="triton"))


@built
def test_threads_and_strides_do_not_change_a_bit_and_every_element_is_written() -> None:
    made = example(2, 5, 33, 41, dtype=torch.float32)
    threads, found = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(results(made, backend="native"))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    found.append(results({n: t.transpose(-1, -2).contiguous().transpose(-1, -2) for n, t in made.items()}))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def well_formed(made: dict[str, Tensor]) -> bool:
    names = ("depth", "motion", "true_depth", "true_motion", "valid", "weight", "intrinsics")
    made = {name: t.nan_to_num(1.0) if t.is_floating_point() else t for name, t in made.items()}
    made |= {name: made[name].requires_grad_() for name in names[:2]}
    arguments = tuple(made[name] for name in names)
    return set(torch.library.opcheck(scene_flow_op, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_a_well_formed_operator(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "reference":
        monkeypatch.setattr(native, "status", lambda: (False, "not built"))
    assert well_formed(example(dtype=torch.float32))


@pytest.mark.interpreted
def test_is_a_well_formed_operator_with_its_kernels(device: torch.device) -> None:
    assert well_formed({name: t.to(device) for name, t in example(dtype=torch.float32).items()})


def test_the_definition_differentiates_everything_and_wrong_arguments_are_named() -> None:
    made = example(1, 2, 3, 4)
    for name in ("intrinsics", "true_motion"):
        leaf = made[name].clone().requires_grad_()
        scene_flow_loss(**(made | {name: leaf})).backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.any()
        with pytest.raises(RuntimeError, match=f"{name} wants a gradient, which only"):
            scene_flow_loss(**(made | {name: leaf}), backend="native")
    for name, message in [
        ("motion", r"motion: expected shape \[1, 3, 1, 3, 4\], got \[1, 2, 1, 3, 4\]"),
        ("true_motion", r"true_motion: expected shape \[1, 3, 1, 3, 4\], got \[1, 2, 1, 3, 4\]"),
        ("intrinsics", r"intrinsics: expected shape \[1, 2, 3, 3\], got \[1, 1, 3, 3\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            scene_flow_loss(**(made | {name: made[name][:, :-1]}))
