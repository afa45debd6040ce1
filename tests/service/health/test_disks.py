import errno
import threading

from service.health import disks
from service.health.disks import Disks, Space, space_of
from tests.clocks import AskedClock
from tests.service_samples import wait_until


def test_a_directory_that_is_not_there_yet_lies_on_the_volume_above(tmp_path):
    assert space_of(tmp_path / "a" / "b").free > 0


def test_a_mount_that_fails_for_a_while_is_asked_again(tmp_path, monkeypatch):
    fails = threading.Event()
    usage = disks.shutil.disk_usage

    def ask(path):
        if fails.is_set():
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return usage(path)

    monkeypatch.setattr(disks.shutil, "disk_usage", ask)
    fails.set()
    assert space_of(tmp_path / "a") is None
    monkeypatch.setattr(disks, "_EVERY_S", 0.01)
    asked = Disks({"input": tmp_path})
    assert asked.free() == {}
    fails.clear()
    wait_until(lambda: "input" in asked.free())
    asked.close()
    asked._threads[0].join(5.0)


def test_a_dead_mount_holds_up_nobody_and_is_left_out(tmp_path, monkeypatch):
    answers, hung = threading.Event(), threading.Event()
    now = [0.0]

    def ask(path):
        if path.name == "dead" and now[0] > 0.0:
            hung.set()
            answers.wait()
        return Space(7, 9)

    monkeypatch.setattr(disks, "space_of", ask)
    monkeypatch.setattr(disks, "_EVERY_S", 0.01)
    asked = Disks({"input": tmp_path / "dead", "output": tmp_path / "out"}, clock=AskedClock(lambda: now[0]))
    wait_until(lambda: asked.free() == {"input": 7, "output": 7})
    now[0] = 1.0
    assert hung.wait(10.0)
    now[0] = 100.0
    wait_until(lambda: asked.free() == {"output": 7})
    asked.close()
    answers.set()
    for thread in asked._threads:
        thread.join(5.0)
        assert not thread.is_alive()
