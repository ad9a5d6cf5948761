"""Gradients of decoding in the latents, which stage `reward_gradient` follows, for every kind with an autoencoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample
from torch import Tensor

from phys4d.models.cogvideox.codec import CogVideoXCodec
from phys4d.models.opensora.codec import OpenSoraCodec
from phys4d.models.recomputed import recomputed
from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan21.codec import Wan21Codec
from tests.models.cogvideox.conftest import write_cogvideox  # noqa: F401 (a fixture)
from tests.models.wan21.conftest import write_wan21  # noqa: F401 (a fixture)


@pytest.fixture(scope="module", params=["wan", "wan21", "cogvideox", "opensora"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """In fp64."""
    root = tmp_path_factory.mktemp("codecs")
    write: dict[str, Callable[[], Path]] = {
        "wan": lambda: request.getfixturevalue("released"),
        "wan21": lambda: request.getfixturevalue("write_wan21")(root / "wan21"),
        "cogvideox": lambda: request.getfixturevalue("write_cogvideox")(root / "cogvideox"),
        "opensora": lambda: request.getfixturevalue("opensora"),
    }
    kinds: dict[str, Any] = {
        "wan": WanCodec, "wan21": Wan21Codec, "cogvideox": CogVideoXCodec, "opensora": OpenSoraCodec
    }  # fmt: skip
    codec = kinds[request.param](write[request.param]() / "vae").double()
    codec.vae.double()
    return codec


def differentiated(codec: Any, latents: Tensor, weight: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad((codec.decode(latents) * weight).sum(), latents)
    return gradient


def test_a_gradient_is_that_of_differences_and_is_the_same_computed_again_by_chunks(
    codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of latents of several chunks."""
    monkeypatch.setattr(WanUpsample, "forward", torch.nn.Upsample.forward)  # the class's own rounds to fp32
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    latents = (0.3 * noise(1, codec.channels, 7, 2, 2)).requires_grad_()
    video = codec.decode(latents)
    weight, direction = noise(*video.shape), noise(*latents.shape)
    gradient = differentiated(codec, latents, weight)
    ahead, behind = ((codec.decode(latents + e * direction) * weight).sum().item() for e in (1e-6, -1e-6))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-5)
    assert all(frame.any() for frame in gradient.unbind(2))

    forwards = [module.forward for module in codec.chunked]
    with recomputed(codec.chunked):
        again = codec.decode(latents)
        assert torch.equal(again, video)
    assert [module.forward for module in codec.chunked] == forwards
    (found,) = torch.autograd.grad((again * weight).sum(), latents)
    torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-12)


def test_computed_again_by_chunks_it_keeps_less(codec: Any) -> None:
    """Bytes that autograd holds between forward and backward, of a clip of several chunks."""
    kept = []
    for modules in ((), codec.chunked):
        seen: dict[int, int] = {}

        def pack(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        latents = torch.zeros(1, codec.channels, 7, 2, 2, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recomputed(modules):
            video = codec.decode(latents)
        kept.append(sum(seen.values()))
        del video
    assert kept[1] < 0.5 * kept[0]
