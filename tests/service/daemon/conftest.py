from __future__ import annotations

import pytest

from service.config import Config
from service.daemon import worker_process
from tests.service.daemon.worker_scene import FakeChild, WorkerScene


@pytest.fixture
def scene_of(journal, monkeypatch):
    """Makes a scene for a configuration."""
    FakeChild.made = []
    monkeypatch.setattr(worker_process, "Child", FakeChild)

    def make(config=None):
        scene = WorkerScene(journal, config or Config())
        monkeypatch.setattr(worker_process, "resident_bytes", scene.resident)
        return scene

    return make
