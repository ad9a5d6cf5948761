"""Captions that stay encoded in memory."""

from collections import OrderedDict

import torch
from torch import Tensor

from phys4d.caches.packing import stacked
from phys4d.caches.read import LatentCache
from phys4d.models.interface import TextEncoder


class EncodedCaptions:
    """Tokens [L, D] by caption; each caption is encoded alone and once: equal whatever else is in a batch.

    text: the encoder, on whose device the tokens stay. room: bytes of tokens that stay, the latest used.
    """

    def __init__(self, text: TextEncoder, room: int) -> None:
        self.text, self._room = text, room
        self._tokens: OrderedDict[str, Tensor] = OrderedDict()  # the latest used at the end

    def __getitem__(self, caption: str) -> Tensor:
        """Raises ValueError for a caption that the encoder does not take."""
        if caption in self._tokens:
            self._tokens.move_to_end(caption)
            return self._tokens[caption]
        tokens = self.text([caption])[0]
        self._tokens[caption] = tokens
        while len(self._tokens) * tokens.nbytes > self._room and len(self._tokens) > 1:
            self._tokens.popitem(last=False)
        return tokens


class NoCaption:
    """Tokens [L, D] of an empty caption by device, where they stay.

    cache: that the clips are read from, whose tokens they are if it has them. captions: encodes them otherwise, by an
    encoder that must then have weights.
    """

    def __init__(self, cache: LatentCache | None, captions: EncodedCaptions) -> None:
        self._cache, self._captions = cache, captions
        self._tokens: dict[torch.device, Tensor] = {}

    def __call__(self, device: torch.device) -> Tensor:
        if device not in self._tokens:
            held = None if self._cache is None else self._cache.no_caption()
            if self._cache is None or held is None:
                self._tokens[device] = self._captions[""].to(device)
            else:
                self._tokens[device] = stacked([held], self._cache.card.text, device)[0]
        return self._tokens[device]
