"""Frames that are decoded on request, so that memory grows with the image and not with the number of frames."""

from __future__ import annotations

import os
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import MovieError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class FrameStack:
    """A movie as a sequence of frames (h, w), each valid until the next one is requested.

    Frames are requested in order, pass by pass: the following ones are decoded in the meantime.
    """

    def __init__(
        self,
        descriptor: int,
        shape: tuple[int, int, int],
        dtype: np.dtype[np.generic],
        decoder: Callable[[int], Callable[[int, np.ndarray], None]],
        *,
        ahead: int,
        check: Callable[[], None],
    ) -> None:
        """Take over a copy of an open file.

        Parameters
        ----------
        shape : (t, h, w).
        decoder : takes a descriptor and returns what decodes frame i into (h, w).
        ahead : how many frames are decoded in advance.
        check : called at the end of each pass, and when a frame cannot be read; raises if the file is no longer the
            one that was opened.
        """
        own = os.dup(descriptor)
        self.shape, self.dtype = shape, dtype
        self._decode = decoder(own)
        self._check = check
        self._ahead = max(1, ahead)
        self._pool = ThreadPoolExecutor(self._ahead, thread_name_prefix="frames")
        self._close = weakref.finalize(self, _close, self._pool, own)
        self._buffers = [np.empty(shape[1:], self.dtype) for _ in range(self._ahead + 1)]
        self._under_way: dict[int, tuple[Future[None], np.ndarray]] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]
        wanted = [number % len(self) for number in range(index, index + self._ahead + 1)]
        for number in [number for number in self._under_way if number not in wanted]:
            self._drop(number)
        for number in wanted:
            if number not in self._under_way and self._buffers:
                buffer = self._buffers.pop()
                self._under_way[number] = self._pool.submit(self._decode, number, buffer), buffer
        future, buffer = self._under_way[index]
        try:
            future.result()
            if index == len(self) - 1:
                self._check()
        except BaseException as error:
            # a movie that cannot be read is abandoned, but the error may be kept, and this stack with it
            self._close()
            if isinstance(error, MovieError):
                # A file that is rewritten while it is read looks corrupt.
                self._check()
            raise
        return buffer

    def _drop(self, number: int) -> None:
        future, buffer = self._under_way.pop(number)
        if not future.cancel():
            future.exception()  # waits; an error comes again when the frame is requested
        self._buffers.append(buffer)


class KeptFrames:
    """Some frames of a movie, in order: the others are left out."""

    def __init__(self, counts: np.ndarray | FrameStack, kept: Sequence[int]) -> None:
        """Show frames ``kept``, by their places in (t, h, w) ``counts``; nothing is copied."""
        self._counts, self._kept = counts, tuple(kept)
        self.shape, self.dtype = (len(self._kept), counts.shape[1], counts.shape[2]), counts.dtype

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        frame: np.ndarray = self._counts[self._kept[index]]
        return frame


FrameSource = np.ndarray | FrameStack | KeptFrames
"""(t, h, w) frames as stored, in memory or decoded on request."""


def _close(pool: ThreadPoolExecutor, descriptor: int) -> None:
    """Wait for all reads, then close the file."""
    pool.shutdown(wait=True, cancel_futures=True)
    os.close(descriptor)
