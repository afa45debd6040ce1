from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.health.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS = Path(__file__).parents[3] / "systemd"


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """What systemd listens on."""
    name = f"{short_path}/notify" if request.param == "path" else f"\0streamer-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield listening


def test_notices(manager: socket.socket) -> None:
    for sent, expected in [
        ({"ready": True, "status": "running, 3 pending"}, "READY=1\nSTATUS=running, 3 pending"),
        ({"watchdog": True}, "WATCHDOG=1"),
        ({"stopping": True}, "STOPPING=1"),
        ({"status": "Å 5"}, "STATUS=Å 5"),
    ]:
        assert notify(**sent)  # type: ignore[arg-type]
        assert manager.recv(4096).decode() == expected


def test_a_status_cannot_smuggle_in_another_assignment(manager: socket.socket) -> None:
    notify(status="movie a\nREADY=1")
    assert manager.recv(4096) == b"STATUS=movie a READY=1"


def test_odd_bytes_in_a_status(manager: socket.socket) -> None:
    assert notify(status="movie a\udcff.tif")
    assert manager.recv(4096) == b"STATUS=movie a?.tif"


def test_nothing_to_say_says_nothing(manager: socket.socket) -> None:
    assert not notify()


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@nobody-listens-here", "relative"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify(ready=True)


def test_a_manager_that_does_not_read_holds_nobody_up(manager: socket.socket) -> None:
    while notify(watchdog=True):
        pass


# ------------------------------------------------------------ the unit

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def unit() -> str:
    return (UNITS / "streamer@.service").read_text()


def analyze(directory: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on a copy whose programs exist here."""
    (directory / "streamer@.service").write_text(
        text.replace("ExecStart=/opt/cryoem-streamer/bin/streamer ", "ExecStart=/bin/true ")
    )
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:"},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_systemd
def test_the_unit_has_no_mistake(tmp_path: Path) -> None:
    arguments = ("verify", "--man=no", "streamer@krios1.service")
    done = analyze(tmp_path, unit(), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    # The control: a key that is spelt wrong is only a warning, which the empty stderr rules out.
    assert "WatchdgSec" in analyze(tmp_path, unit().replace("WatchdogSec", "WatchdgSec"), *arguments).stderr


@needs_systemd
def test_the_unit_is_hardened(tmp_path: Path) -> None:
    arguments = ("security", "--offline=yes", "--threshold=15", "streamer@.service")
    done = analyze(tmp_path, unit(), *arguments)
    assert done.returncode == 0, done.stdout
    bare = "\n".join(line for line in unit().splitlines() if not line.startswith(("Protect", "SystemCallFilter")))
    assert analyze(tmp_path, bare, *arguments).returncode == 1


@pytest.mark.parametrize(
    "line",
    [
        "ExecStart=/opt/cryoem-streamer/bin/streamer run --instance %i --config /etc/streamer/%i/config.toml",
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=60",
        "RestartPreventExitStatus=78",
        "KillMode=mixed",
        "Restart=on-failure",
        "StateDirectory=streamer/%i",
        "RuntimeDirectory=streamer/%i",
        "ProtectSystem=strict",
        "IPAddressDeny=any",
        "DeviceAllow=char-nvidia rw",
        "DeviceAllow=char-nvidia-frontend rw",
        "User=streamer",
    ],
)
def test_what_others_rely_on(line: str) -> None:
    assert line in unit().splitlines()


def test_what_breaks_torch_or_the_gpu_is_not_in_the_unit() -> None:
    keys = [line.partition("=")[0] for line in unit().splitlines()]
    assert not {"MemoryDenyWriteExecute", "PrivateDevices", "LoadCredential"} & set(keys)


def test_the_environment_example_sets_nothing_by_itself() -> None:
    lines = (UNITS / "streamer.env.example").read_text().splitlines()
    assert all(line.startswith("#") or not line for line in lines)
    assert any("CUDA_VISIBLE_DEVICES" in line for line in lines)
