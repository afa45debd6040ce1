import logging

import pytest

from service.health.logs import log_to_stderr


@pytest.fixture
def logged(capsys):
    """Log a message as the daemon would and give what came out."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def log(message, *arguments):
        root.handlers[:] = []
        log_to_stderr()
        logging.getLogger("service.daemon.loop").info(message, *arguments)
        return capsys.readouterr().err

    yield log
    root.handlers[:] = before
    root.setLevel(level)


def test_a_file_name_cannot_break_the_line_or_command_the_terminal(logged, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert logged("done: %s", "a\nb\x1b[2J\udcff.tif") == "INFO done: a?b?[2J?.tif\n"


def test_by_hand_each_line_has_its_time(logged, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    line = logged("stopped")
    assert line.endswith(" INFO stopped\n")
    assert line[:4].isdigit()
