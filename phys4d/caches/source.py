"""The encoders that a cache is computed by: of a model folder, of a released folder, or of a kind without weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from phys4d.engine.errors import UserError
from phys4d.models.card import CARD, base_of, read_card
from phys4d.models.config import ModelConfig
from phys4d.models.hub_digests import check_downloaded
from phys4d.models.interface import Codec, TextEncoder
from phys4d.models.preflight import check_model
from phys4d.models.registry import MODELS, published
from phys4d.models.shipped import opened, shown
from phys4d.models.spec import Encoders


@dataclass(frozen=True)
class Source:
    """The encoders of a model. kind: of the model; base: the folder in the diffusers layout that holds its weights, or
    None.
    """

    kind: str
    base: Path | None

    def _spec(self) -> Encoders:
        if (spec := MODELS[self.kind].encoders) is None:
            raise UserError(f'model.kind: latents of "{self.kind}" cannot be cached: its SPEC has no `encoders`')
        return spec

    def encoders(self) -> tuple[Codec, TextEncoder]:
        """Codec and text encoder; they read their weights when they are first used."""
        return self._spec().build(self.base)

    def check(self) -> None:
        """Raises UserError, one line, unless the weights of both are there."""
        if (spec := MODELS[self.kind].encoders) is not None:
            spec.check(self.base)

    def compare_downloaded(self) -> None:
        """Raises UserError for weights that are not what was published, as far as the Hub's client left digests."""
        if self.base is not None:
            check_downloaded(self.base)

    def origin(self) -> Mapping[str, str]:
        """What latents and tokens depend on, as of `models.spec.Encoders`. UserError where a file cannot be read."""
        return self._spec().origin(self.base)

    @property
    def name(self) -> str:
        """What `source_of` makes this source of."""
        return self.kind if self.base is None else shown(self.base)


def source_of(name: str) -> Source:
    """The encoders of a model, whose files are looked at without reading weights.

    name: a model folder that a stage wrote, a released folder, `phys4d:NAME`, or a kind of model that needs no folder
        ("tiny").

    Raises UserError, one line, where there is none, or it is not whole.
    """
    folder = opened(Path(name))
    if (folder / CARD).exists():
        check_model(folder)
        card = read_card(folder)
        return _checked(Source(card.model.kind, base_of(card, folder)))
    without_weights = [kind for kind, spec in MODELS.items() if spec.create is not None]
    if not folder.exists() and name in without_weights:
        return Source(name, None)
    spec = next((spec for spec in published() if spec.recognises(folder)), None)
    if spec is None:
        kinds = ", ".join([*(f"a folder of {spec.title}" for spec in published()), *without_weights])
        raise UserError(f"--model {name}: expected a model folder that a stage wrote, {kinds}")
    spec.outline(ModelConfig(kind=spec.kind), folder)
    return _checked(Source(spec.kind, folder))


def _checked(source: Source) -> Source:
    source.check()
    return source
