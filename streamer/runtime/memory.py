"""Memory of a process, asked of the system; no torch, because the main process uses it."""

from __future__ import annotations

import os
from pathlib import Path


def worker_memory_bytes(setting_gib: float) -> int:
    """Most memory that a worker may take; 0 stands for three quarters of the machine's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(setting_gib * 2**30) or machine * 3 // 4


def resident_bytes(pid: int) -> int:
    """Memory that a process holds; 0 where that is unknown."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
