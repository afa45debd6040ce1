"""Reads whole movies through one reader's ``decoder``."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from streamer.readers.files import opened


def read_counts(module, path, header, threads=1):
    """(t, h, w) as the reader ``module`` decodes them."""
    with opened(path) as descriptor, ThreadPoolExecutor(threads) as pool:
        decode = module.decoder(path, descriptor, header)
        counts = np.empty((header.n_frames, header.height, header.width), np.dtype(header.dtype).newbyteorder("<"))
        list(pool.map(decode, range(len(counts)), counts))
    return counts
