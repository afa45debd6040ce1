"""Places at which a test can make the program fail, as it may once a year anyway; unless armed, they do nothing.

``STREAMER_FAULT`` arms them, several separated by commas: ``point=part of the subject@time:action``, where the part
of the subject (a path) and the time (1: the first) may be left out: ``renamed=.mrc@2:kill-all``. Only tests set it.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import threading
from typing import NamedTuple, NoReturn

from streamer.errors import ConfigError

VARIABLE = "STREAMER_FAULT"
DAEMON = "STREAMER_DAEMON"
"""In the environment of a daemon's children: its process id."""
_FORM = re.compile(r"([a-z-]+)(?:=([^@:,]*))?(?:@([1-9]\d*))?:([a-z-]+)")


class _Armed(NamedTuple):
    point: str
    subject: str
    time: int
    action: str


def _kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _kill_all() -> NoReturn:
    """In a child, kill the daemon first, so that no process is left to tidy up."""
    if DAEMON in os.environ:
        os.kill(int(os.environ[DAEMON]), signal.SIGKILL)
    _kill()


def _hang() -> None:
    threading.Event().wait()


def _out_of_gpu_memory() -> NoReturn:
    raise importlib.import_module("torch").cuda.OutOfMemoryError("injected")


def _bug() -> NoReturn:
    raise RuntimeError("injected")


_ACTIONS = {
    "kill": _kill,
    "kill-all": _kill_all,
    "abort": os.abort,
    "hang": _hang,
    "oom": _out_of_gpu_memory,
    "bug": _bug,
}


def _parsed(text: str) -> tuple[_Armed, ...]:
    armed = []
    for one in filter(None, text.split(",")):
        found = _FORM.fullmatch(one)
        if found is None or found[4] not in _ACTIONS:
            raise ConfigError(
                "not a fault",
                where=VARIABLE,
                expected="point=subject@time:action",
                found=one,
                hint="unset it: it is for tests",
            )
        armed.append(_Armed(found[1], found[2] or "", int(found[3] or 1), found[4]))
    return tuple(armed)


_armed = _parsed(os.environ.get(VARIABLE, ""))
_reached: dict[_Armed, int] = {}


def fault_point(name: str, subject: str | bytes = "") -> None:
    """Fail here if a test has asked for it."""
    here = [armed for armed in _armed if armed.point == name and armed.subject in str(subject)]
    for armed in here:
        _reached[armed] = _reached.get(armed, 0) + 1
    for armed in here:
        if _reached[armed] == armed.time:
            _ACTIONS[armed.action]()
