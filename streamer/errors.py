"""The whole error tree: what can go wrong, and what the daemon does about it.

Every message says what failed, where, what was expected, what was found and what to do. Kernels raise
``ValueError`` on misuse by the caller; everything that comes from data, disk or settings is below.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import ClassVar


class Handling(StrEnum):
    """What the daemon does about a movie when its processing raises an error. Each class names its own below."""

    FAIL = "failed"
    """Journalled as failed and never retried automatically; the next movie is taken."""
    LOOK_AGAIN = "not-ready"
    """Checked again later without counting an attempt; journalled as incomplete after ``watch.incomplete_after_s``."""
    LEAVE = "no-movie"
    """Journalled as skipped, counted and shown; no alarm. The operator's retry processes it all the same."""
    WAIT = "unreachable"
    """Checked again until it can be read, without counting an attempt: a volume or a permission may come back."""
    VANISH = "vanished"
    """Journalled as vanished; a file that reappears counts as new."""
    HOLD = "output"
    """Alarm; nothing new is started for a while; retried without counting an attempt."""
    ASK = "config"
    """Alarm: the operator has to fix it; retried without counting an attempt."""
    RETRY = "device"
    """The attempt counts; retried with fewer steps, finally on the CPU; quarantined after three attempts."""


class StreamerError(Exception):
    """Any error that the product foresees.

    Parameters
    ----------
    what : one sentence saying what failed.
    where : file, setting or stage concerned.
    expected, found : the two sides of the disagreement, where there is one.
    hint : what the reader of the message can do.
    """

    exit_code = 1
    handling: ClassVar[Handling] = Handling.FAIL

    def __init__(
        self,
        what: str,
        *,
        where: object = "",
        expected: object = "",
        found: object = "",
        hint: str = "",
    ) -> None:
        self.what, self.where, self.hint = what, str(where), hint
        self.expected, self.found = str(expected), in_words(found)
        super().__init__(self.message())

    def message(self) -> str:
        """One line: what, where, expected, found, what to do; empty parts are left out."""
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.found:
            parts.append(f"found {self.found}")
        if self.hint:
            parts.append(self.hint)
        return "; ".join(parts)

    def reason(self) -> Reason:
        """The same as a record, for the journal and the event."""
        return Reason(
            error=type(self).__name__,
            message=self.message(),
            expected=self.expected,
            found=self.found,
            hint=self.hint,
        )


def in_words(found: object) -> str:
    """What was found, for a message; of an error of the system its own words, without number and file name."""
    if isinstance(found, BaseException):
        found = getattr(found, "strerror", None) or found
    return str(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a movie failed or is waiting, as given in the journal, in the event and by ``movies show``."""

    error: str
    """Class name from this module; ``InternalError`` for a bug in this program."""
    message: str
    expected: str = ""
    found: str = ""
    hint: str = ""


class ConfigError(StreamerError):
    """A wrong setting. The daemon refuses to start, exit 78; systemd does not restart it."""

    exit_code = 78
    handling = Handling.ASK


class UsageError(StreamerError):
    """A command that cannot be carried out as given. Exit 64."""

    exit_code = 64


class AlreadyRunning(StreamerError):
    """Another daemon holds this instance's lock. Exit 75."""

    exit_code = 75


class MovieNotReady(StreamerError):
    """The file is still being written. The daemon checks again later; no attempt is counted."""

    handling = Handling.LOOK_AGAIN


class MovieUnreachable(MovieNotReady):
    """It cannot be opened or read at present: a volume is offline, a permission is missing. It is not given up."""

    handling = Handling.WAIT


class MovieVanished(MovieNotReady):
    """The file is gone although its directory exists. The daemon journals this; a file that reappears counts as new."""

    handling = Handling.VANISH


class MovieError(StreamerError):
    """Something is wrong with this movie. Journalled as failed, never retried automatically; the daemon continues."""


class NotAMovie(MovieError):
    """It is something else: a gain reference, a tilt series, a micrograph. Skipped with the reason, without an alarm.

    Parameters
    ----------
    kind : what it is, in the plural: files are counted by it. It is also what was ``found``.
    may_grow : a movie may still become of it, as its first frame is all that is there.
    """

    handling = Handling.LEAVE

    def __init__(self, what: str, *, kind: str, may_grow: bool = False, where: object = "") -> None:
        self.kind, self.may_grow = kind, may_grow
        name = PurePath(str(where)).name or "NAME"
        hint = f"if it is a movie all the same: streamer movies retry {name}, or streamer process --force {name}"
        super().__init__(what, where=where, expected="several frames of one exposure", found=kind, hint=hint)


class MovieCorrupt(MovieError):
    """The bytes contradict the format: truncated, overwritten or inconsistent with each other."""


class MovieUnsupported(MovieError):
    """A format, or a variant of one, that is not supported; the hint says what to do instead."""


class MovieMismatch(MovieError):
    """The movie does not fit its gain, its sidecar or the settings."""


class StageError(StreamerError):
    """Numbers went wrong in a stage (not finite, no peak). Journalled as failed; the daemon continues."""


class ModelError(StreamerError):
    """A network is missing, damaged or not finite. The last good one is used, else none; the result is flagged."""


class DeviceError(StreamerError):
    """The compute device was lost or ran out of memory. The movie is retried with fewer steps, then on the CPU."""

    handling = Handling.RETRY


class OutputError(StreamerError):
    """A result could not be written (full disk, quota, read-only). The movie is retried with a growing delay."""

    exit_code = 74
    handling = Handling.HOLD


class ServiceError(StreamerError):
    """Socket, journal or state directory failed. The daemon exits 74; systemd restarts it; the journal resumes."""

    exit_code = 74
