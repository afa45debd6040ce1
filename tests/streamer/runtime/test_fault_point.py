"""Places at which tests make the program fail: they do so when asked to, and at no other time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streamer.errors import ConfigError
from streamer.runtime import fault_point as faultpoint
from streamer.runtime.fault_point import VARIABLE, fault_point

ROOT = Path(__file__).parents[3]
REACH = """
import sys
from streamer.runtime.fault_point import fault_point
for point, subject in zip(sys.argv[1::2], sys.argv[2::2]):
    fault_point(point, subject)
    print(point, subject, flush=True)
"""


def reach(armed, *points, code=REACH):
    """Reach points with their subjects in a process of its own; what it printed, and how it ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    if armed is not None:
        environment[VARIABLE] = armed
    done = subprocess.run(
        [sys.executable, "-c", code, *points], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done


@pytest.fixture
def armed(monkeypatch):
    """Arms points in this process with an action that only writes down that it was reached."""
    reached = []
    monkeypatch.setitem(faultpoint._ACTIONS, "note", lambda: reached.append(True))
    monkeypatch.setattr(faultpoint, "_reached", {})

    def arm(text):
        monkeypatch.setattr(faultpoint, "_armed", faultpoint._parsed(text))
        return reached

    return arm


# ------------------------------------------------------------ what is asked for


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", []),
        (",,", []),
        ("turn:kill", [("turn", "", 1, "kill")]),
        ("renamed=.mrc@2:kill-all", [("renamed", ".mrc", 2, "kill-all")]),
        ("renamed=:hang", [("renamed", "", 1, "hang")]),
        ("committed@12:oom", [("committed", "", 12, "oom")]),
        ("ready=a b/c.tif:abort,started=x:bug", [("ready", "a b/c.tif", 1, "abort"), ("started", "x", 1, "bug")]),
    ],
)
def test_point_subject_time_and_action(text, parsed):
    assert [tuple(one) for one in faultpoint._parsed(text)] == parsed


WRONG = ["turn", "turn:", ":kill", "turn:explode", "turn@:kill", "turn@x:kill", "turn@-1:kill", "a=b=c@1", "Turn:kill"]


@pytest.mark.parametrize("text", [*WRONG, "turn:kill,turn:explode", " turn:kill", "turn:kill;ready:kill"])
def test_what_is_no_fault_is_said_by_name(text):
    with pytest.raises(ConfigError, match=r"STREAMER_FAULT: not a fault; expected point=subject@time:action; found"):
        faultpoint._parsed(text)


def test_a_program_with_a_wrong_fault_does_not_start():
    done = reach("turn:kill,turn:explode", "turn", "")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ConfigError: STREAMER_FAULT: not a fault" in done.stderr
    assert "found turn:explode" in done.stderr


# ------------------------------------------------------------ when it happens


def test_it_happens_at_the_time_asked_for_and_once(armed):
    reached = armed("here@3:note")
    seen = []
    for _ in range(6):
        fault_point("here", "/any/path")
        seen.append(len(reached))
    assert seen == [0, 0, 1, 1, 1, 1]


def test_only_those_are_counted_that_have_the_subject(armed):
    reached = armed("here=b.mrc@2:note")
    seen = []
    for point, subject in [
        ("here", "/s/b.mrc.tmp"), ("there", "/s/b.mrc"), ("here", "/s/a.mrc"), ("here", ""), ("here", "/s/b.mrc"),
    ]:  # fmt: skip
        fault_point(point, subject)
        seen.append(len(reached))
    assert seen == [0, 0, 0, 0, 1]


def test_several_are_counted_each_by_itself(armed):
    reached = armed("here@2:note,here=x:note,there:note")
    seen = []
    for point, subject in [("here", ""), ("here", "x"), ("there", ""), ("here", "x"), ("there", "")]:
        fault_point(point, subject)
        seen.append(len(reached))
    assert seen == [0, 2, 3, 3, 3]


def test_not_armed_it_does_nothing():
    assert faultpoint._armed == (), "no test runs with the variable set"
    for point in ("turn", "ready", "renamed"):
        fault_point(point, "/any/path.mrc")
    assert faultpoint._reached == {}
    done = reach(None, "turn", "", "renamed", "a.mrc")
    assert (done.returncode, done.stdout) == (0, "turn \nrenamed a.mrc\n")
    # and costs nothing that a child would have to load
    code = "import sys, streamer.runtime.fault_point; sys.exit('torch' in sys.modules)"
    assert reach(None, code=code).returncode == 0


# ------------------------------------------------------------ what happens


def test_kill_kills_at_that_very_point():
    done = reach("here=.mrc@2:kill", "here", "a.mrc", "here", "b.tif", "here", "c.mrc", "here", "d.mrc")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "here a.mrc\nhere b.tif\n"


def test_abort_ends_as_a_crash_in_native_code_does():
    assert reach("here:abort", "here", "").returncode == -signal.SIGABRT


def test_kill_all_takes_the_daemon_with_it():
    """The daemon is a process of its own here that waits for its child, as ours does."""
    daemon = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1], "here", "a.mrc"],
    env={**os.environ, "STREAMER_FAULT": "here:kill-all", "STREAMER_DAEMON": str(os.getpid())},
)
print(child.pid, flush=True)
child.wait()
print("outlived its child", flush=True)
"""
    done = reach(None, REACH, code=daemon)
    # stdout is at its end, so the child, which had it too, is gone as well
    assert done.returncode == -signal.SIGKILL
    assert "outlived" not in done.stdout
    assert "here a.mrc" not in done.stdout


def test_hang_hangs():
    with subprocess.Popen(
        [sys.executable, "-c", REACH, "before", "", "here", "", "after", ""],
        cwd=ROOT,
        env={**os.environ, VARIABLE: "here:hang"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "before \n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()
        assert process.stdout.read() == ""


def test_oom_and_bug_are_what_a_gpu_and_we_ourselves_would_raise(armed):
    armed("here:oom,there:bug")
    with pytest.raises(torch.cuda.OutOfMemoryError, match="injected"):
        fault_point("here")
    with pytest.raises(RuntimeError, match="injected"):
        fault_point("there")
