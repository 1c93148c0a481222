"""What a bad line does to bytes: noise turns bits, loss swallows bytes. A seed brings the same again."""

from __future__ import annotations

import random


class Noise:
    """Of the bytes that pass, the share `noise` is changed by one bit each, and the share `loss` is lost.

    Which ones depends on the seed and on their place in the stream alone, and not on the pieces in which they come.
    """

    def __init__(self, noise: float, loss: float, seed: int) -> None:
        if min(noise, loss) < 0 or noise + loss > 1:
            raise ValueError(f"noise and loss are shares that come to at most 1, not {noise} and {loss}")
        self._noise, self._loss = noise, loss
        self._random = random.Random(seed)
        self.changed = self.lost = 0

    def __call__(self, data: bytes) -> bytes:
        heard = bytearray()
        for byte in data:
            chance, bit = self._random.random(), self._random.randrange(8)
            if chance < self._loss:
                self.lost += 1
                continue
            if chance < self._loss + self._noise:
                self.changed += 1
                byte ^= 1 << bit
            heard.append(byte)
        return bytes(heard)
