"""The floor plan: rooms are small and say what they are, and the import contracts notice who climbs the stairs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("streamer", "models", "service")
ROOMS = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))
LINTER = Path(sys.executable).with_name("lint-imports")

PLANTED = {
    "a gate that knows the daemon": ("models/gate/denoiser.py", "from service.daemon.loop import Daemon"),
    "a kernel that knows a network": (
        "streamer/motion/align.py",
        "from models.serving.session_model import SessionModel",
    ),
    "a kernel that knows the pipeline": ("streamer/quality/estimators.py", "from streamer.pipeline import Job"),
    "the ground floor knows the roof": ("streamer/fourier.py", "from streamer.writers import star"),
    "the wire knows metrics": ("service/wire/messages.py", "from service.health.prometheus import Metrics"),
    "the journal knows the terminal": (
        "service/journal/journal.py",
        "from service.subscribers.monitor import MonitorView",
    ),
    "the monitor knows the layout": ("service/subscribers/monitor.py", "from service.layout import Layout"),
    "the monitor knows the settings": ("service/subscribers/monitor.py", "from service.config import Config"),
    "the monitor knows the store": ("service/subscribers/monitor.py", "from models.versions.store import ModelStore"),
    "a subscriber knows models": ("service/client/client.py", "from models.manifest import Manifest"),
    "the gate knows the simulator": ("models/gate/scoring.py", "from streamer.simulation.movie import Field"),
    "a daemon that imports torch": ("service/daemon/upkeep.py", "import torch"),
    "a subscriber that imports numpy": ("service/client/join.py", "import numpy"),
    "a kernel that opens sockets": ("streamer/dose.py", "import zmq"),
    "SQL outside the journal": ("service/daemon/movies.py", "import sqlite3"),
}
"""Not one of the first eleven broke a contract while only run-time imports between three packages counted."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with their contracts."""
    copy = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "importlinter-runtime.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def broken(house: Path) -> str:
    """What the linter says where a contract is broken; empty where all are kept."""
    said = ""
    # two configurations that share a cache hide changes from each other: --no-cache, as in the Makefile
    for words in (("--no-cache",), ("--no-cache", "importlinter-runtime.toml")):
        command = [sys.executable, str(LINTER), *words]
        done = subprocess.run(command, cwd=house, capture_output=True, text=True, check=False)
        assert "contracts" in done.stdout.lower(), done.stdout + done.stderr
        said += done.stdout if done.returncode else ""
    return said


def test_all_contracts_are_kept(house: Path) -> None:
    assert broken(house) == ""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_breaks_a_contract(house: Path, name: str) -> None:
    file, line = PLANTED[name]
    path = house / file
    text = path.read_text()
    # in the block for types alone where it names one of ours: that is where such imports hid
    for_types = line.startswith("from ") and "if TYPE_CHECKING:\n" in text
    before, block, after = text.partition(
        "if TYPE_CHECKING:\n" if for_types else "from __future__ import annotations\n"
    )
    assert block
    path.write_text(f"{before}{block}{'    ' if for_types else ''}{line}\n{after}")
    try:
        assert "BROKEN" in broken(house)
    finally:
        path.write_text(text)


def test_a_new_room_has_to_be_given_a_floor(house: Path) -> None:
    (house / "streamer" / "attic.py").write_text('"""A module that no contract mentions."""\n')
    try:
        assert "streamer.attic" in broken(house)
    finally:
        (house / "streamer" / "attic.py").unlink()


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_is_small_and_says_what_it_is(room: Path) -> None:
    files = [path.stem for path in room.glob("*.py") if path.stem != "__init__"]
    assert len(files) <= {"streamer": 17, "service": 5}.get(str(room.relative_to(ROOT)), 16)
    tree = ast.parse((room / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    exports = [node for node in tree.body if not isinstance(node, ast.Expr)]
    # the public face for strangers, and the protocol's own data
    assert not exports or room.relative_to(ROOT).as_posix() in {"service/client", "service/wire"}
    folders = [path.name for path in room.iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    for stem in files:
        assert not any(stem.startswith(f"{folder}_") for folder in folders), f"{stem}: its prefix is a folder"
        assert not stem.startswith((f"{room.name}_", "cli_", "fine_")), stem


def test_names_that_went_stay_away() -> None:
    for path in (path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")):
        if path != Path(__file__):
            assert not re.search(r"\b(Desk|Crew|Teacher)\b|\bmovie\.movie\.", path.read_text()), path


def test_the_system_clock_is_asked_in_one_place() -> None:
    """Whoever needs the time is given a clock: a seeded simulation has to be able to bring its own."""
    asks = re.compile(r"^\s*(import time\b|from time import)|\bdatetime\.(now|utcnow|today)\(", re.M)
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if asks.search(path.read_text())]
    assert found == [ROOT / "streamer" / "runtime" / "clock.py"]


def test_names_on_disk_do_not_follow_the_names_of_modules() -> None:
    """Files of yesterday's sessions are read by these words; a script that renames modules once changed some."""
    from models.manifest import FORMAT
    from models.versions.store import SUPER_RESOLUTION_MODELS
    from service.layout import Layout
    from service.wire.heartbeat import PREVIEW_SCHEMA
    from service.wire.messages import EVENT_SCHEMA
    from streamer.sums import group_files
    from streamer.super_resolution import training_data

    assert (group_files.FORMAT, training_data.FORMAT, training_data.AVERAGES_FORMAT) == (
        "streamer.groups/1",
        "streamer.fine-groups/1",
        "streamer.averages/1",
    )
    assert (FORMAT, EVENT_SCHEMA, PREVIEW_SCHEMA) == ("streamer.model/1", "streamer.event/1", "streamer.preview/1")
    assert SUPER_RESOLUTION_MODELS == {"fusion": "fine-models", "zssr": "zssr-models"}
    layout = Layout(root=Path("/in"), output=Path("/out"), state=Path("/state"), runtime=Path("/run"))
    assert layout.training_data("0123") == Path("/state/lessons/0123.safetensors")
    assert layout.groups("0123") == Path("/state/groups/0123.safetensors")
    assert layout.models("s") == Path("/state/sessions/s/models")
    assert layout.super_resolution_models("s", "fusion") == Path("/state/sessions/s/fine-models")
