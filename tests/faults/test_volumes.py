"""F7, F8: volumes that fill up, may not be written, and a journal that is damaged or gone."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.layout import layout_of
from tests.faults.sites import assert_nothing_lost, movie_bytes, needs_root, partial_files, put, quick
from tests.system.conftest import make_site, until  # noqa: F401 - a fixture


@contextmanager
def small_volume(place: Path, megabytes: int) -> Iterator[Path]:
    """A volume of this size."""
    place.mkdir(parents=True, exist_ok=True)
    size = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def fill(place: Path, leave_bytes: int) -> Path:
    """Fill a volume but for so many bytes; returns the file to remove."""
    import shutil

    filler = place / "filler"
    with filler.open("wb") as file:
        file.write(b"\0" * max(0, shutil.disk_usage(place).free - leave_bytes))
    return filler


def alarms(site) -> set[str]:
    with site.journal() as journal:
        rows = journal.events.snapshot(kinds=["alert"], limit=100)
    from service.wire.messages import parse_event

    events = [parse_event(row.raw).body for row in rows]
    return {event["name"] for event in events if event["state"] == "raised"}


@needs_root
def test_intake_pauses_at_the_reserve_and_goes_on_alone(make_site, tmp_path, report):  # noqa: F811
    site = quick(make_site, instance__disk_reserve_gb="20.0", instance__disk_reserve_percent="25.0")
    with small_volume(site.directory / "results", 64) as volume:
        filler = fill(volume, 12 << 20)  # 16 MiB are kept
        daemon = site.start()
        until(lambda: "disk-reserve" in alarms(site), "the alarm")
        for number in range(5):
            put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
        site.wait_for(ready=5)
        assert site.counts() == {"ready": 5}
        filler.unlink()
        began = time.monotonic()
        site.wait_for(done=5)
        took = time.monotonic() - began
        assert "disk-reserve" not in alarms(site)
        assert site.stop(daemon) == 0
        assert_nothing_lost(site, {f"m{number}.mrc" for number in range(5)})
    assert took <= 30.0
    figure = f"nothing started below it, alarm; on again after {took:.1f} s"
    report("F7", "free space below the reserve", n=1, figure=figure, target="resumes <= 30 s")


@needs_root
def test_a_full_output_volume_leaves_nothing_partial(make_site, tmp_path, report):  # noqa: F811
    site = quick(make_site, instance__disk_reserve_gb="0.0")
    with small_volume(site.directory / "results", 16) as volume:
        filler = fill(volume, 40 << 10)  # less than one movie's outputs
        daemon = site.start()
        for number in range(3):
            put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
        until(lambda: "outputs-failing" in alarms(site), "the alarm")
        assert partial_files(site) == []
        assert not list(volume.rglob("*.json"))
        filler.unlink()
        began = time.monotonic()
        site.wait_for(done=3)
        took = time.monotonic() - began
        assert site.stop(daemon) == 0
        assert_nothing_lost(site, {f"m{number}.mrc" for number in range(3)})
    assert took <= 60.0
    figure = f"0 partial under a final name; done {took:.0f} s after there was space"
    report("F7", "output volume full", n=1, figure=figure, target="0 lost, 0 partial")


@needs_root
def test_a_read_only_output_volume(make_site, tmp_path, report):  # noqa: F811
    site = quick(make_site)
    with small_volume(site.directory / "results", 64) as volume:
        daemon = site.start()
        put(site.root, "a.mrc", movie_bytes(tmp_path, 1))
        site.wait_for(done=1)
        subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
        put(site.root, "b.mrc", movie_bytes(tmp_path, 2))
        until(lambda: "outputs-failing" in alarms(site), "the alarm")
        assert site.counts()["done"] == 1
        subprocess.run(["mount", "-o", "remount,rw", str(volume)], check=True)
        began = time.monotonic()
        site.wait_for(done=2)
        took = time.monotonic() - began
        assert site.stop(daemon) == 0
        assert_nothing_lost(site, {"a.mrc", "b.mrc"})
    report("F7", "output volume read-only", n=1, figure=f"alarm; done {took:.0f} s after", target="0 lost, 0 partial")


@needs_root
def test_a_full_journal_volume_ends_the_daemon_with_a_message(make_site, tmp_path, report):  # noqa: F811
    site = quick(make_site, instance__disk_reserve_gb="0.0")
    with small_volume(site.directory / "state", 48) as volume:
        daemon = site.start()
        put(site.root, "a.mrc", movie_bytes(tmp_path, 1))
        site.wait_for(done=1)
        filler = fill(volume, 0)
        for number in range(40):
            put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
        status = daemon.wait(60)
        assert status == 74
        assert "the journal cannot be used" in site.log()
        filler.unlink()
        daemon = site.start()
        site.wait_for(done=41)
        assert site.stop(daemon) == 0
        assert_nothing_lost(site, {"a.mrc", *(f"m{number}.mrc" for number in range(40))})
    report("F8", "journal volume full", n=1, figure="exit 74 and a message; 41 of 41 done after", target="0 lost")


def test_a_damaged_journal_is_refused_and_rebuilt(make_site, tmp_path, often, report):  # noqa: F811
    """Bytes flipped all over the file; then every movie that was done is done again, without being processed."""
    n, movies, rng = often(3, 20), 12, random.Random(8)
    site, names = quick(make_site), {f"m{number}.mrc" for number in range(movies)}
    daemon = site.start()
    for number in range(movies):
        put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
    site.wait_for(done=movies)
    assert site.stop(daemon) == 0
    journal, refused = layout_of(site.config).journal, 0
    for turn in range(n):
        data = bytearray(journal.read_bytes())
        for _ in range(len(data) // 40):
            data[rng.randrange(100, len(data))] ^= 1 << rng.randrange(8)
        journal.write_bytes(data)
        checked = site.run("journal", "check", "--config", str(site.config_file))
        assert checked.returncode in (1, 74)
        refused += checked.returncode == 74
        if turn == 0:
            started = site.run("run", "--config", str(site.config_file))
            assert started.returncode == 74
            assert "streamer journal recover" in started.stderr
        found = site.run("journal", "recover", "--config", str(site.config_file), "--hash", "--force")
        assert found.returncode == 0, found.stderr
        assert f"{movies} movies recovered" in found.stdout
    daemon = site.start()
    put(site.root, "new.mrc", movie_bytes(tmp_path, 99))
    site.wait_for(done=movies + 1)
    assert site.stop(daemon) == 0
    assert_nothing_lost(site, {*names, "new.mrc"})
    figure = f"{movies} of {movies} done movies recovered each time, none processed again"
    report("F8", "journal damaged", n=n, figure=figure, target="100 % from the sidecars")


@pytest.mark.parametrize("lost", ["a file", "altered bytes"])
def test_outputs_that_are_not_whole_are_refused_by_recovery(make_site, tmp_path, report, lost):  # noqa: F811
    site = quick(make_site)
    daemon = site.start()
    for number in range(3):
        put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
    site.wait_for(done=3)
    assert site.stop(daemon) == 0
    (victim,) = (site.results / "movies" / "m1.mrc").rglob("m1_EVN.mrc")
    if lost == "a file":
        victim.unlink()
    else:
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    for part in layout_of(site.config).state.glob("journal.sqlite*"):
        part.unlink()
    found = site.run("journal", "recover", "--config", str(site.config_file), "--hash")
    assert found.returncode == 1
    assert "m1_EVN.mrc" in found.stderr
    daemon = site.start()
    site.wait_for(done=3)
    assert site.stop(daemon) == 0
    assert_nothing_lost(site, {"m0.mrc", "m1.mrc", "m2.mrc"})
    report("F8", f"journal gone, {lost} of one movie too", n=1, figure="2 recovered, 1 processed again", target="0 bad")
