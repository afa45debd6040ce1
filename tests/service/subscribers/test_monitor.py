import io
from dataclasses import replace

import msgspec
import pytest
from rich.console import Console

from service.subscribers.monitor import MonitorView
from service.wire.heartbeat import Heartbeat
from service.wire.messages import Alert, Event
from streamer.runtime.clock import SYSTEM
from streamer.transfer_figures import CtfFigures
from tests.clocks import SetClock
from tests.service_samples import UTC, make_record

BEAT = Heartbeat(
    state="running",
    session="grid1",
    watching="/data",
    device="cpu",
    uptime_s=3661.0,
    pending=3,
    oldest_pending_s=75.0,
    model_version="v0002",
    rates={"movies_per_hour": 233.0, "training": 1.0},
    latency_p50_s=6.12,
    latency_p95_s=9.4,
    disk_free_bytes={"output": 80_000_000_000, "input": 70_000_000_000, "state": 1},
    counts={"done": 12, "failed": 1, "incomplete": 1},
)


def event(kind, body, seq=1):
    envelope = {"schema": "s", "minor": 0, "instance": "i", "epoch": "e", "event_id": f"e{seq}", "t_utc": UTC}
    body = msgspec.to_builtins(body)
    return Event(**envelope, seq=seq, kseq=seq, kind=kind, session="grid1", body=body, raw=b"")


def record(name, **changes):
    return make_record(f"grid1/{name}.tif", path=f"grid1/{name}.tif", **{"flags": []} | changes)


def screen(board, width=80, height=24):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(board.draw(height, width))
    return console.file.getvalue()


def full_board(movies=30, clock=SYSTEM):
    board = MonitorView(clock)
    board.beat(BEAT)
    for n in range(movies):
        board.add(event("movie", record(f"m{n}"), n + 1))
    return board


def test_before_the_daemon_is_heard_it_says_so():
    assert "waiting for the daemon" in screen(MonitorView())


def test_all_figures_fit_80_by_24():
    text = screen(full_board())
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for part in ("running", "up 1 h 01 m", "3 waiting, oldest 1 m 15 s", "12, 2 failed", "233 movies/h"):
        assert part in text
    for part in ("p50 6.1 s  p95 9.4 s", "v0002", "training", "output 80 GB", "no alarms"):
        assert part in text
    assert "…" not in lines[0]


def test_a_taller_terminal_shows_more_micrographs_newest_first():
    board = full_board()
    small, tall = (screen(board, height=h) for h in (24, 40))
    assert small.index("m29") < small.index("m28")
    assert "m2 " not in small
    assert tall.count("\n") > small.count("\n")


def test_a_movie_that_failed_shows_its_error_and_counts_once():
    board = full_board(0)
    failed = record("bad", state="failed")
    board.add(event("movie", record("bad"), 1))
    board.add(event("movie", failed, 2))
    text = screen(board)
    assert text.count("bad") == 1
    assert "bad cut short" in text
    assert failed.reason.error not in text
    assert "failed" in text


def test_why_a_movie_was_not_processed_is_said_without_its_path_and_the_names_of_classes():
    board = full_board(0)
    failed = record("m", state="failed")
    reason = replace(failed.reason, message=f"/data/{failed.path}: is a JPEG picture; expected a movie; copy it again")
    board.add(event("movie", replace(failed, reason=reason), 1))
    assert "m is a JPEG picture  " in screen(board)


def test_the_gain_over_the_wiener_filter_is_of_this_movie():
    board = full_board(0)
    body = msgspec.to_builtins(record("good"))
    body["metrics"] |= {"snbr_half_wiener": 0.5, "snbr_half_denoised": 1.0}
    board.add(event("movie", body))
    (line,) = [line for line in screen(board).splitlines() if "good" in line]
    assert line.split()[2:4] == ["1.00", "2.00"]


@pytest.mark.parametrize(("of_picture", "shown"), [(1.4, "1.40"), (None, "-")])
def test_a_gain_of_the_picture_that_is_not_known_is_not_taken_from_its_halves(of_picture, shown):
    board = full_board(0)
    body = msgspec.to_builtins(record("good"))
    score = {"version": "v0001", "gain": 2.0, "gain_error": 0.2, "expected_gain": None, "share": 0.4}
    body["metrics"] |= {"snbr_half_wiener": 0.5, "snbr_half_denoised": 1.0, "score": score | {"gain_shown": of_picture}}
    board.add(event("movie", body))
    (line,) = [line for line in screen(board).splitlines() if "good" in line]
    assert line.split()[2:4] == ["1.00", shown]


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\x07b", "a\x9bb"])
def test_file_names_cannot_command_the_terminal(name):
    board = full_board(0)
    board.add(event("movie", record(name)))
    text = screen(board)
    assert not any(c for c in text if not c.isprintable() and c != "\n")
    assert "a?" in text


def test_names_are_never_read_as_markup():
    board = full_board(0)
    board.add(event("movie", record("[red]x[bold]")))
    assert "[red]x[bold]" in screen(board)


def test_an_alarm_stands_at_the_foot_and_a_notice_after_it():
    board = full_board(1)
    alarm = Alert(name="disk-full", severity="critical", state="raised", message="no space on /data")
    board.beat(msgspec.structs.replace(BEAT, alarms=[alarm]))
    assert "! disk-full: no space on /data" in screen(board)
    board.beat(BEAT)
    board.add(event("alert", msgspec.structs.replace(alarm, state="cleared")))
    assert "no alarms; last notice: disk-full: no space on /data" in screen(board)


def test_the_gate_says_what_it_last_judged():
    board = full_board(0)
    assert "nothing judged yet" in screen(board)
    figures = {"snbr": 1.2, "snbr_wiener": 0.8}
    board.add(event("model", {"version": "v0001", "result": "rejected", "figures": figures}))
    assert "v0001 rejected, 1.50× Wiener" in screen(board)
    # what the networks of the fine grid go through is not the denoiser's
    board.add(event("model", {"version": "v0009", "result": "promoted", "network": "super-resolution"}))
    assert "v0001 rejected, 1.50× Wiener" in screen(board)
    assert "v0009" not in screen(board)


def test_a_daemon_that_fell_silent_is_not_shown_as_running():
    clock = SetClock()
    board = full_board(1, clock)
    clock.now += 10.0
    text = screen(board)
    assert "silent" in text
    assert "running" not in text


def test_motion_that_is_not_trusted_is_not_shown_as_none():
    board = full_board(0)
    body = msgspec.to_builtins(record("still"))
    body["metrics"] |= {"motion_trusted": False, "total_motion_angstrom": 0.0}
    board.add(event("movie", body))
    (line,) = [line for line in screen(board).splitlines() if "still" in line]
    assert line.split()[5] == "-"


@pytest.mark.parametrize(("state", "shown"), [("good", "1.22"), ("weak", "1.22?"), ("none", "-")])
def test_the_defocus_is_shown_where_there_are_rings(state, shown):
    board = full_board(0)
    known = {} if state == "none" else {"defocus_u_angstrom": 12_400.0, "defocus_v_angstrom": 12_000.0}
    board.add(event("movie", record("m", ctf=CtfFigures(state=state, **known))))
    (line,) = [line for line in screen(board).splitlines() if "v0003" in line and line.startswith(" m")]
    assert line.split()[6] == shown


def test_before_the_daemon_is_heard_nothing_is_known():
    """No movie waiting and none done would be news."""
    text = screen(MonitorView(SetClock()))
    for word in ("waiting,", "0 waiting", "0 failed", "none yet", "starting"):
        assert word not in text


def test_absurd_numbers_do_not_push_the_names_aside():
    board = full_board(0)
    body = msgspec.to_builtins(record("a_name_of_23_characters"))
    body["metrics"] |= {"ssnr_full": 3168900.0, "snbr_half_wiener": 1.5e6, "snbr_half_denoised": 1e30}
    board.add(event("movie", body))
    assert "a_name_of_23_characters" in screen(board)
    assert ">999" in screen(board)


def test_what_is_flagged_stands_at_the_foot():
    board = full_board(0)
    board.add(event("movie", record("old", flags=["gain: none"]), 1))
    assert "no alarms; last notice: old: gain: none" in screen(board)


def test_of_a_long_message_the_cause_is_seen():
    board = full_board(0)
    path = "/data/processed/session/movies/GridSquare_1/Data/FoilHole_1.tiff/r1/FoilHole_1.mrc"
    words = f"{path}: cannot be written (No space left on device)"
    board.beat(
        msgspec.structs.replace(
            BEAT, alarms=[Alert(name="outputs-failing", severity="critical", state="raised", message=words)]
        )
    )
    assert "…/FoilHole_1.mrc: cannot be written (No space left" in screen(board)


def test_files_that_are_not_yet_whole_are_counted():
    board = full_board(0)
    board.beat(msgspec.structs.replace(BEAT, oldest_pending_s=None, settling=2))
    assert "3 waiting, 2 arriving" in screen(board)


def test_what_is_left_out_is_one_line_and_only_where_there_is_something():
    board = full_board(0)
    assert "left out" not in screen(board)
    before = len(screen(board).splitlines())
    skipped = {"integrated images (EPU)": 12, 'watch.exclude "*.tmp"': 3, "gain references": 2}
    board.beat(msgspec.structs.replace(BEAT, skipped=skipped))
    assert 'left out: integrated images (EPU): 12, watch.exclude "*.tmp": 3, gain' in screen(board)
    assert len(screen(board).splitlines()) <= before + 1


def test_the_learning_curve_shows_what_the_network_gained_before_it_learned():
    board = full_board(0)
    assert "no movie scored yet" in screen(board)
    for number, gain in enumerate((0.9, 1.5, 2.0, 3.0)):
        body = msgspec.to_builtins(record(f"m{number}"))
        body["metrics"]["score"] = {"version": "v0001", "gain": gain, "gain_error": 0.1, "expected_gain": None}
        board.add(event("movie", body))
    (line,) = [line for line in screen(board).splitlines() if "learned" in line]
    assert "▁▃▅█ 3.00×" in line
    assert "specimen" in line
    body["metrics"]["score"] |= {"gain_shown": 2.4, "share": 0.9}
    board.add(event("movie", body))
    (line,) = [line for line in screen(board).splitlines() if "learned" in line]
    assert "2.40×" in line  # what is shown, not its halves


def test_a_version_that_serves_again_is_the_one_whose_age_is_told():
    board = full_board(0)
    board.add(event("model", {"version": "v0003", "result": "returned", "reason": "specimen 1"}))
    assert board._promoted.body["version"] == "v0003"
