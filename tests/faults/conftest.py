"""Fault injection: how often each fault is tried, and where its figures go.

``make faults`` tries each fault a few times, ``make faults FULL=1`` as often as the release asks for. Every test
reports what it measured; ``tests.faults.matrix`` makes the table of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FULL = os.environ.get("FAULTS_FULL") == "1"
ROWS = Path(os.environ.get("FAULTS_ROWS", "build/faults/rows.jsonl"))

Report = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory is a fault; ``make test`` leaves it out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def often() -> Callable[[int, int], int]:
    """``often(reduced, full)``: how many times this run tries something."""
    return lambda reduced, full: full if FULL else reduced


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """``report("F4", "writer models", n=2400, figure="0 started early", target="0 of 2400")``, after it was measured.

    Rows are kept only of tests that pass; one that fails leaves a row that says so.
    """
    rows: list[dict[str, object]] = []
    began = time.monotonic()

    def add(fault: str, what: str, *, n: int, figure: str, target: str) -> None:
        rows.append({"fault": fault, "what": what, "n": n, "figure": figure, "target": target})

    yield add
    failed = getattr(request.node, "failed_call", False)
    took = round(time.monotonic() - began, 1)
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as file:
        for row in rows or [{"fault": "?", "what": request.node.name, "n": 0, "figure": "", "target": ""}]:
            whole = row | {"test": request.node.nodeid, "ok": not failed, "seconds": took, "full": FULL}
            file.write(json.dumps(whole) + "\n")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let the fixture know whether the test has failed."""
    outcome = yield
    result = outcome.get_result()  # type: ignore[attr-defined]
    if result.when == "call":
        item.failed_call = result.failed  # type: ignore[attr-defined]
