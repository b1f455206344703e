"""Random numbers as a function of (seed, epoch, example), never of process, worker or order.

Masks, the order of tags, tag dropout and the choice of captions are drawn from
`example_generator(seed, epoch, example_id, purpose)`: the same example in the same epoch gives the
same draw on any number of processes and after any resume.
"""

import hashlib

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Digest(ISeedSequence):
    """A hash of 16 bytes as the seed of a bit generator, which takes it as it is.

    The same draws as from `Philox(key=...)`, which also asks the operating system for a seed that it never uses: more
    than half of its time.
    """

    def __init__(self, digest: bytes):
        self._words = np.frombuffer(digest, dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        return self._words


def example_generator(seed: int, epoch: int, example_id: str, purpose: str) -> np.random.Generator:
    """A counter-based generator (Philox) keyed by a hash of its four arguments.

    `purpose` keeps draws of different kinds apart, so that adding a draw of one kind does not
    move those of another.
    """
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{example_id}\0{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(_Digest(digest)))


def epoch_permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """int64 [size]: the order of the examples in one epoch, the same on every process."""
    return example_generator(seed, epoch, "", "order").permutation(size)
