"""What a merge method is given: the tensors of one name, flat, and the seed of what it draws.

Random numbers belong to (seed, tensor name, model, block), so they are the same in any order and with any
number of threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from forge.errors import MergeError
from forge.merge.blocks import Array


@dataclass(frozen=True)
class Group:
    """The same tensor in every model; a method reads these and returns a new one like them."""

    name: str
    tensors: Sequence[Array] = field(repr=False)
    """Of the models that are merged, contiguous, all of one shape; the base is not among them."""
    base: Array | None = field(default=None, repr=False)
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every tensor."""
        return self.tensors[0].shape

    @property
    def size(self) -> int:
        """Elements of one tensor."""
        return self.tensors[0].size

    @property
    def flat(self) -> list[Array]:
        """The tensors as vectors, without copying."""
        return [tensor.reshape(-1) for tensor in self.tensors]

    def flat_base(self) -> Array:
        """The base as a vector.

        Raises:
            MergeError: the group has none.
        """
        if self.base is None:
            raise MergeError(
                f"{self.name}: this method merges differences to a base model, and there is none"
            )
        return self.base.reshape(-1)

    def draw(self, model: int, block: slice) -> npt.NDArray[np.uint32]:
        """Uniform 32-bit numbers for one model's block."""
        label = f"{self.seed}\0{self.name}\0{model}\0{block.start}".encode()
        key = int.from_bytes(hashlib.blake2b(label, digest_size=16).digest(), "little")
        count = block.stop - block.start
        # Raw words: numpy promises that they stay the same from version to version.
        words = np.random.SFC64(key).random_raw((count + 1) // 2)
        halves: npt.NDArray[np.uint32] = words.astype("<u8", copy=False).view("<u4")
        return halves[:count]
