"""What the demo prints at its end."""

import dataclasses
import io
from pathlib import Path

import msgspec
from rich.console import Console

from service.demo.checks import Findings, _check_models, _check_quality, _tell_latency, report
from service.demo.run import Demo
from service.health.status import Status
from service.wire.messages import Event, ModelChange
from streamer.movie_record import SuperResolutionVerdict, Times
from tests.service_samples import UTC, full_fields, make_record


def printed(findings, directory=Path("/demo"), width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    report(console, findings, directory, 183.4)
    return console.file.getvalue().splitlines()


def value_of(findings, what):
    (value,) = [value for name, value, _ in findings.rows if name == what]
    return value


def record(number, *, verdict="not shown", **figures):
    name = f"grid1/{number}.tif"
    metrics = dataclasses.replace(
        full_fields(name)["metrics"], sr=SuperResolutionVerdict(verdict=verdict, reason="", diversity=0.5), **figures
    )
    return make_record(name, metrics=metrics)


def judged(*changes):
    envelope = {"schema": "s", "minor": 0, "instance": "i", "epoch": "e", "session": "demo", "t_utc": UTC, "raw": b""}
    return [
        Event(
            **envelope,
            seq=number,
            kseq=number,
            event_id=f"e{number}",
            kind="model",
            body=msgspec.to_builtins(ModelChange(version=version, result=result)),
        )
        for number, (version, result) in enumerate(changes, 1)
    ]


def test_paths_and_sentences_are_whole_at_80_columns():
    directory = Path("/scratch") / "a directory of [some] length" / ("x" * 60)
    findings = Findings(rows=[("one", "two", True)], notes=["a sentence that is " + "rather " * 12 + "long"])
    lines = printed(findings, directory)
    assert f"pictures: {directory}/results/demo/movies" in lines
    assert f"- {findings.notes[0]}" in lines
    assert "all checks passed" in lines
    findings.add("three", "[four]", held=False)
    lines = printed(findings)
    assert any("[four]" in line and "FAILED" in line for line in lines)
    assert "NOT all checks passed" in lines


def test_steps_are_told_on_one_line_each(tmp_path):
    demo = Demo(tmp_path, movies=8, seed=1, limit_s=1.0)
    demo._console = Console(file=io.StringIO(), width=80, color_system=None)
    text = "the microscope writes 8 movies in its first [grid] square, frame by frame; one is damaged"
    demo._say(text)
    assert demo._console.file.getvalue() == f"     0 s  {text}\n"


def test_quality_is_named_as_in_the_monitor_and_says_over_which_movies():
    findings = Findings()
    done = [record(n, snr_half=0.1 * n, snbr_half_wiener=0.2, snbr_half_denoised=0.4) for n in (1, 2, 3)]
    done.append(record(4, snbr_half_denoised=None, verdict="helps"))
    _check_quality(findings, done)
    assert value_of(findings, "SNBR* of the raw half") == "0.200 (median of 3)"
    assert value_of(findings, "SNBR* of the half, Wiener") == "0.200 (median of 3)"
    assert value_of(findings, "SNBR* of the half, denoised") == "0.400 (median of 3)"
    assert value_of(findings, "super-resolution verdicts") == "not shown 3, helps 1"
    assert any("3 movies restored by a network that was not trained on them" in note for note in findings.notes)
    assert any("_SR image is written here, whatever its verdict" in note for note in findings.notes)
    assert max(map(len, printed(Findings(rows=findings.rows)))) <= 80


def test_a_name_that_stands_twice_is_explained():
    findings = Findings()
    _check_models(findings, judged(("v0001", "rejected"), ("v0001", "rejected"), ("v0001", "promoted")), [])
    assert value_of(findings, "versions, base weights first") == "v0001 rejected ×2, v0001 promoted"
    assert any("its name is reused: v0001" in note for note in findings.notes)
    once = Findings()
    _check_models(once, judged(("v0001", "promoted"), ("v0002", "rejected")), [])
    assert once.notes == []


def test_latencies_are_those_of_the_heartbeat():
    """Of 1 to 12 s the nearest rank gives 6 and 12; another rule would say 6.5, or 11."""
    status, findings, done = Status(), Findings(), []
    for seconds in range(1, 13):
        times = Times(complete="2026-11-20T12:00:00.000Z", done=f"2026-11-20T12:00:{seconds:02d}.000Z")
        done.append(dataclasses.replace(record(seconds), times=times))
        status.finished(done[-1])
    _tell_latency(findings, done)
    assert value_of(findings, "latency, complete to done") == "p50 6.0 s, p95 12.0 s"
    assert (status.latency(0.5), status.latency(0.95)) == (6.0, 12.0)
