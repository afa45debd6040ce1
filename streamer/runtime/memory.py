"""Memory of a process, as the system reports it; no torch, because the main process uses it."""

from __future__ import annotations

import os
from pathlib import Path


def worker_memory_bytes(setting_gib: float) -> int:
    """Maximum memory of a worker; 0 means three quarters of the machine's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(setting_gib * 2**30) or machine * 3 // 4


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None where it is unknown, as for one that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None
