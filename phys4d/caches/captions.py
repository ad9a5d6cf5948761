"""Captions that stay encoded in memory."""

from collections import OrderedDict

from torch import Tensor

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
