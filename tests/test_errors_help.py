"""Every error that a user can meet says what to do, and none speaks of a program's insides."""

from __future__ import annotations

import ast
import errno
import re
from pathlib import Path

import pytest

from streamer import errors
from streamer.errors import ConfigError, StreamerError, in_words

ROOT = Path(__file__).parents[1]
SOURCES = [path for package in ("streamer", "models", "service") for path in sorted((ROOT / package).rglob("*.py"))]
CLASSES = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, StreamerError)
} - {"NotAMovie"}
"""A class of which all errors have one hint is left out."""
WITHOUT_HINT = {
    "there is no such file": "says it all",
    "there is no such file or directory": "says it all",
    "the sockets are not open yet": "a fault of this program: it is asked for before start-up",
    "unexpected message from the worker": "a fault of this program",
    "a movie was started twice": "a fault of this program",
    "a child process has no pipe": "a fault of this program",
    "a child process sends lines without end": "a fault of this program",
    "nothing is learned from it": "written to the trainer's log only: the next movie is taken",
    "the simulated microscope failed": "the demo's own check, with the log that says why",
    "the daemon's endpoints are gone": "the demo's own check, with the log that says why",
    "the hard stop was reached": "the demo's own check, with the log that says why",
    "the daemon ended by itself": "the demo's own check, with the log that says why",
}
"""Errors without a hint, by their first words, and why."""


def raised(path: Path) -> list[ast.Call]:
    """Calls that make one of our errors."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in CLASSES]


def words_of(call: ast.Call) -> str:
    what = call.args[0] if call.args else None
    return str(what.value) if isinstance(what, ast.Constant) else "" if what is None else ast.unparse(what)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_error_says_what_to_do(path):
    for call in raised(path):
        hint = next((keyword.value for keyword in call.keywords if keyword.arg in ("hint", None)), None)
        if words_of(call) in WITHOUT_HINT:
            continue
        where = f"{path.relative_to(ROOT)}:{call.lineno}: {words_of(call)}"
        assert hint is not None, f"{where}: no hint"
        assert not (isinstance(hint, ast.Constant) and not hint.value), f"{where}: an empty hint"


def test_the_exceptions_still_exist():
    found = {words_of(call) for path in SOURCES for call in raised(path)}
    assert WITHOUT_HINT.keys() <= found
    assert len(found) > 150


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_error_shows_how_the_program_writes_a_value(path):
    """A repr has quotes, brackets and escapes of the language that the program is written in."""
    for call in raised(path):
        for value in (node for part in (*call.args, *(k.value for k in call.keywords)) for node in ast.walk(part)):
            if isinstance(value, ast.FormattedValue):
                assert value.conversion != ord("r"), f"{path.relative_to(ROOT)}:{value.lineno}"
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                assert value.func.id != "repr", f"{path.relative_to(ROOT)}:{value.lineno}"


def test_an_error_of_the_system_is_told_in_its_own_words(tmp_path):
    assert in_words(PermissionError(errno.EACCES, "Permission denied", str(tmp_path))) == "Permission denied"
    assert in_words(ValueError("odd")) == "odd"
    assert in_words(3) == "3"
    message = str(ConfigError("x", where=tmp_path, found=OSError(errno.ENOSPC, "No space left on device"), hint="y"))
    assert message == f"{tmp_path}: x; found No space left on device; y"
    assert not re.search(r"[Ee]rrno", message)
