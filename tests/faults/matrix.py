"""Make the table of the fault matrix from what the tests reported: ``python -m tests.faults.matrix ROWS FILE``."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path

FAULTS = {
    "F1": "kill -9 at named points",
    "F2": "power loss",
    "F3": "truncated, bit-flipped and hostile files",
    "F4": "growing, preallocated and stalled writers",
    "F5": "lost events, no events, very many files",
    "F6": "a file removed, replaced or truncated while it is read",
    "F7": "output disk full, read-only or failing",
    "F8": "journal disk full, journal damaged or gone",
    "F9": "out of GPU memory",
    "F10": "a worker that crashes, aborts or hangs",
    "F11": "frames without sense: NaN, dead, constant, no dose",
    "F12": "training that diverges, crashes or hangs",
    "F13": "subscribers that stop, die or come late",
    "F14": "port scans, garbage and hostile requests",
    "F15": "clock steps and skewed servers",
    "F16": "SIGTERM under load",
    "F17": "a main loop that hangs",
    "F18": "a second instance, stale locks and files",
    "F19": "odd names, links, pipes and devices",
    "F20": "soak",
    "F21": "overload",
}


def table(rows: list[dict[str, object]]) -> str:
    """The whole document; a fault that nobody has reported on stands there as not run."""
    full = bool(rows) and all(row["full"] for row in rows)
    lines = [
        "# Fault matrix",
        "",
        "Written by `make faults FULL=1` (`make faults`: fewer repetitions); every row is a test of `tests/faults`.",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{'full' if full else 'reduced'} numbers of repetitions.",
        "",
        "| # | fault | tried | n | figure | target | s | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, fault in FAULTS.items():
        found = [row for row in rows if row["fault"] == name]
        for row in found:
            cells = [name, fault, row["what"], row["n"], row["figure"], row["target"], row["seconds"]]
            lines.append("| " + " | ".join(map(str, cells)) + f" | {'yes' if row['ok'] else '**no**'} |")
        if not found:
            lines.append(f"| {name} | {fault} | not run | | | | | |")
    failed = sorted({str(row["test"]) for row in rows if not row["ok"]})
    return "\n".join([*lines, "", *(f"Failed: `{name}`" for name in failed)]).rstrip() + "\n"


def main(source: str, target: str) -> None:
    """Read the reports and write the document."""
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    Path(target).write_text(table(rows), encoding="utf-8")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
