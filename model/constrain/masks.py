"""Masks of a step, found in a thread while the model computes the step.

Shapes: G constrained draws, B = ceil(V / 8) bytes of a mask.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .guide import Bits, Guide

MOST_THREADS = 8
WORD_BYTES = 4


class Masks:
    """The masks of one step, on their way.

    Attributes:
        rows_GB: one bit for each token, the lowest first; to be read after `wait`.
    """

    def __init__(self, rows_GB: Bits, filled: "Future[None]") -> None:
        self.rows_GB = rows_GB
        self._filled = filled

    def wait(self) -> None:
        """Return when they are all there."""
        self._filled.result()


class MaskFiller:
    """Finds the masks of each step, all of them at once, without Python's lock.

    Args:
        vocab_size: tokens in all.
    """

    def __init__(self, vocab_size: int) -> None:
        from llguidance import LLExecutor  # noqa: PLC0415 - see the package's docstring

        self._row_bytes = -(-vocab_size // 8)
        self._words = -(-vocab_size // (8 * WORD_BYTES))
        threads = max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2))
        self._executor = LLExecutor(num_threads=threads)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="masks")

    def start(self, guides: Sequence[Guide]) -> Masks:
        """Begin with the masks of these answers, one row each, and return at once."""
        words = np.zeros((len(guides), self._words), dtype=np.uint32)
        rows_GB = words.view(np.uint8)[:, : self._row_bytes]
        return Masks(rows_GB, self._thread.submit(self._fill, list(guides), words, rows_GB))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _fill(self, guides: Sequence[Guide], words: npt.NDArray[np.uint32], rows_GB: Bits) -> None:
        matchers = [(guide.advance(), row) for row, guide in enumerate(guides)]
        self._executor.unsafe_compute_mask_ptr(
            matchers, words.ctypes.data, self._words * WORD_BYTES, len(guides)
        )
        for guide, row_B in zip(guides, rows_GB, strict=True):
            guide.finish(row_B)
