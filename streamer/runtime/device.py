"""Which device to compute on, and with how many threads."""

from __future__ import annotations

import os
import re

import torch

from streamer.errors import ConfigError


def device_of(name: str) -> torch.device:
    """Compute device of a setting; ``auto`` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if known is None:
        expected = "auto, cpu, cuda or cuda:NUMBER"
        raise ConfigError(
            "unknown device",
            where="compute.device",
            expected=expected,
            found=name,
            hint='"auto" takes the GPU if there is one',
        )
    if name != "cpu" and int(known[1] or 0) >= torch.cuda.device_count():
        raise ConfigError(
            "there is no such CUDA device", where="compute.device", found=name, hint='use "auto" or "cpu"'
        )
    return torch.device(name)


def thread_count(setting: int) -> int:
    """CPU threads of a setting; 0 is half of the cores, because a trainer and the detector's software share them."""
    return setting or max(1, (os.cpu_count() or 1) // 2)


def use_threads(count: int) -> None:
    """Let torch use this many threads, here and in threads started from here."""
    torch.set_num_threads(count)
