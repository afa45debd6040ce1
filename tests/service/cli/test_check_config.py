"""``check-config`` tries what ``run`` will need, says one line for each thing, and leaves nothing behind."""

import json
import os
import socket
import tempfile

import numpy as np
import pytest

from service import config
from service.cli import main
from service.daemon import loop
from service.journal.database import is_locked, lock_instance
from service.layout import Endpoints, layout_of, write_endpoints
from streamer.errors import ConfigError
from streamer.writers.atomic import write_atomically
from streamer.writers.mrc import encode_image


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "movies").mkdir()
    # the path of a socket is short, that of a test may be long
    with tempfile.TemporaryDirectory(prefix="run-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield tmp_path


def settings(place, *more):
    any_port = (f"events.{name}_port=0" for name in ("events", "journal", "preview"))
    root = [] if any(text.startswith("watch.root=") for text in more) else [f"watch.root={place / 'movies'}"]
    return (*root, f"outputs.root={place / 'results'}", "compute.device=cpu", *any_port, "metrics.port=0", *more)


@pytest.fixture
def check(place, monkeypatch, capsys):
    """Exit status, findings by check, and all lines of the command without ``--json``."""

    def run(*more, whole=True):
        words = [word for text in (settings(place, *more) if whole else more) for word in ("--set", text)]
        told = []
        for extra in (["--json"], []):
            monkeypatch.setattr("sys.argv", ["streamer", "check-config", *words, *extra])
            with pytest.raises(SystemExit) as caught:
                main.main()
            told.append((caught.value.code, capsys.readouterr()))
        assert told[0][0] == told[1][0]
        findings = json.loads(told[0][1].out)
        out, err = told[1][1].out.splitlines(), told[1][1].err.splitlines()
        assert len(out) + len(err) == len(findings)
        assert len(err) == sum(finding["verdict"] == "problem" for finding in findings)
        assert all(finding["cure"] for finding in findings if finding["verdict"] != "ok")
        return told[1][0], {finding["check"]: finding for finding in findings}, out + err

    return run


def everything_in(place):
    return sorted(str(path) for path in place.rglob("*"))


def test_a_good_configuration_is_ok_and_nothing_is_left_behind(check, place):
    before = everything_in(place)
    code, found, lines = check()
    assert code == 0
    assert {finding["verdict"] for finding in found.values()} <= {"ok", "warning"}
    assert found["watched root"]["found"] == str(place / "movies")
    assert found["output"]["found"] == f"{place / 'results'}  (will be created)"
    assert any("tcp://127.0.0.1:(any free port)" in line for line in lines)
    assert everything_in(place) == before
    for name in ("results", "state/cryoem-streamer/default"):
        (place / name).mkdir(parents=True)
    assert check()[1]["output"]["found"] == str(place / "results")
    assert not list((place / "results").iterdir())


def test_a_root_that_does_not_exist_yet_is_a_warning_and_none_at_all_a_problem(check, place):
    code, found, _ = check(f"watch.root={place / 'later'}")
    assert (code, found["watched root"]["verdict"]) == (0, "warning")
    assert "does not exist yet" in found["watched root"]["found"]
    code, found, _ = check(f"watch.root={place / 'unmounted' / 'volume'}")
    assert "check that its volume is mounted" in found["watched root"]["cure"]
    (place / "file").touch()
    code, found, _ = check(f"watch.root={place / 'file'}")
    assert (code, found["watched root"]["found"]) == (78, f"{place / 'file'} is a file")
    code, found, _ = check(f"outputs.root={place / 'o'}", whole=False)
    assert (code, found["watched root"]["found"]) == (78, "watch.root is not set")
    assert "set watch.root to the directory" in found["watched root"]["cure"]


def test_places_that_links_may_lead_to_are_looked_at(check, place):
    (place / "raw").mkdir()
    code, found, _ = check(f'watch.follow_links_to=["{place / "raw"}"]')
    assert (code, found["links to"]["verdict"]) == (0, "ok")
    code, found, _ = check(f'watch.follow_links_to=["{place / "rwa"}"]')
    assert (code, found["links to"]["verdict"]) == (0, "warning")
    assert "watch.follow_links_to" in found["links to"]["cure"]


@pytest.mark.parametrize(
    ("setting", "path", "words"),
    [
        ("outputs.root", "{file}", "is a file"),
        ("outputs.root", "{file}/below/it", "is a file"),
        ("outputs.root", "/proc/nowhere/out", "cannot be created in /proc"),
        ("instance.state", "{file}/state", "is a file"),
        ("instance.state", "/proc/nowhere", "cannot be created in /proc"),
        ("instance.runtime", "{file}", "is a file"),
        ("outputs.root", "{broken}/out", "is a link that leads nowhere"),
    ],
)
def test_a_directory_that_cannot_be_written_is_a_problem(check, place, setting, path, words):
    (place / "file").write_text("precious")
    (place / "broken").symlink_to(place / "gone")
    code, found, _ = check(f"{setting}={path.format(file=place / 'file', broken=place / 'broken')}")
    assert code == 78
    (problem,) = [finding for finding in found.values() if finding["verdict"] == "problem"]
    assert words in problem["found"]
    assert problem["cure"] == f"set {setting} to a directory that the daemon's user can write"
    assert (place / "file").read_text() == "precious"


def test_a_directory_without_permission_is_a_problem(check, place):
    if os.geteuid() == 0:
        pytest.skip("the superuser may write anywhere")
    (place / "locked").mkdir(mode=0o500)
    code, found, _ = check(f"outputs.root={place / 'locked'}")
    assert code == 78
    assert "cannot be written: permission denied" in found["output"]["found"]


@pytest.mark.parametrize("setting", ["movie.gain", "gain.defects", "eer.integration", "super_resolution.mtf"])
def test_a_named_file_that_is_absent_or_nonsense_is_a_problem(check, place, setting):
    code, found, _ = check(f"{setting}={place / 'none'}")
    assert (code, found[setting]["found"]) == (78, f"{place / 'none'} does not exist")
    assert found[setting]["cure"] == f"correct {setting}, or leave it out"
    (place / "empty").touch()
    assert check(f"{setting}={place / 'empty'}")[1][setting]["found"] == f"{place / 'empty'} is empty"
    assert check(f"{setting}={place}")[1][setting]["found"] == f"{place} is a directory"
    (place / "other").write_text("this is none of these\n" * 20)
    code, found, _ = check(f"{setting}={place / 'other'}")
    assert (code, found[setting]["verdict"]) == (78, "problem")


def an_image(path, shape, value=1.0):
    values = np.full(shape, value, np.float32)
    values[0, 0] = 0.9 * value
    write_atomically(path, encode_image(values, pixel_size=1.0, labels=[]))
    return path


def a_movie(path, shape, frames=4):
    import tifffile

    tifffile.imwrite(path, np.ones((frames, *shape), np.uint8), photometric="minisblack")
    return path


def test_gain_and_defects_are_compared_with_a_movie_that_is_there(check, place):
    gain = an_image(place / "reference.mrc", (64, 96))
    map_ = an_image(place / "bad.mrc", (64, 96))
    named = (f"movie.gain={gain}", f"gain.defects={map_}")
    assert check(*named)[0] == 0  # there is no movie yet
    a_movie(place / "movies" / "one.tiff", (64, 96))
    assert check(*named)[0] == 0
    code, found, _ = check(*named, "gain.rotate=1")
    assert code == 78
    assert "differ in size" in found["movie.gain"]["found"]
    assert "set gain.rotate" in found["movie.gain"]["cure"]
    a_movie(place / "movies" / "one.tiff", (64, 128))
    code, found, _ = check(*named)
    assert [found[name]["verdict"] for name in ("movie.gain", "gain.defects")] == ["problem", "problem"]


def test_several_gains_in_one_directory_are_a_warning(check, place):
    for name in ("gain_a.mrc", "gain_b.mrc"):
        an_image(place / "movies" / name, (64, 96))
    (place / "movies" / "day2").mkdir()
    an_image(place / "movies" / "day2" / "gain_c.mrc", (64, 96))
    code, found, _ = check()
    assert (code, found["gain"]["verdict"]) == (0, "warning")
    assert "gain_a.mrc" in found["gain"]["found"]
    assert "gain_c.mrc" not in found["gain"]["found"], "it is alone in its directory"


def test_a_port_in_use_is_a_problem_unless_this_instance_uses_it(check, place):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, found, _ = check(f"events.events_port={port}")
        assert (code, found["events"]["verdict"]) == (78, "problem")
        assert "address already in use" in found["events"]["found"]
        assert "choose another events.events_port" in found["events"]["cure"]
        layout = layout_of(config.load(None, settings(place)))
        layout.state.mkdir(parents=True)
        tcp = f"tcp://127.0.0.1:{port}"
        write_endpoints(layout, Endpoints(instance="default", events=tcp, journal="", local="", metrics="", pid=0))
        assert check(f"events.events_port={port}")[0] == 78  # left by one that has ended
        assert not is_locked(layout.state)
        with lock_instance(layout.state):
            assert is_locked(layout.state)
            code, found, _ = check(f"events.events_port={port}")
            assert (code, found["events"]["verdict"]) == (0, "ok")
            assert check(f"metrics.port={port}")[0] == 0
    assert check(f"events.events_port={port}")[0] == 0


def test_a_socket_name_that_the_system_cannot_take_is_a_problem(check, place):
    code, found, _ = check(f"instance.runtime={place / ('x' * 90)}")
    assert code == 78
    assert "the system allows 107" in found["local sockets"]["found"]
    assert "shorter name" in found["local sockets"]["cure"]


def test_a_device_or_version_that_is_not_there_is_a_problem(check, place, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for device, words in (("cuda:7", "there is no such CUDA device"), ("abacus", "unknown device")):
        code, found, _ = check(f"compute.device={device}")
        assert (code, found["device"]["verdict"]) == (78, "problem")
        assert words in found["device"]["found"]
    (place / "v").mkdir()
    code, found, _ = check(f"session_model.base={place / 'v'}")
    assert code == 78
    assert "session_model.base" in found["versions"]["found"]
    assert check(f"session_model.base={place / 'v'}", "session_model.enabled=false")[0] == 0


def test_the_disk_and_the_machine_are_held_against_the_settings(check, place, monkeypatch):
    from service.health.disks import Space

    monkeypatch.setattr("service.health.start_checks.space_of", lambda _: Space(free=10**9, total=10**12))
    code, found, _ = check("compute.threads=100000", "instance.worker_memory_gib=1e6")
    assert code == 0
    assert found["output space"]["found"] == "1.0 GB free, 20.0 GB are kept free"
    assert [found[name]["verdict"] for name in ("output space", "threads", "memory")] == ["warning"] * 3


def test_what_is_possible_but_unusual_is_a_warning(check):
    code, found, _ = check("movie.pixel_size=0.25")
    assert (code, found["settings"]["verdict"]) == (0, "warning")
    assert "if it is in nm, it means 2.5" in found["settings"]["found"]


# ----------------------------------------------------------------------------------------------------------- run


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("gain.defects=/nowhere/defects.txt",), "the file that gain.defects names does not exist"),
        (("movie.gain=/nowhere/gain.mrc",), "the file that movie.gain names does not exist"),
        (("super_resolution.mtf=/",), "the file that super_resolution.mtf names is a directory"),
        (("watch.root=/etc/passwd",), "watch.root = /etc/passwd: is a file"),
        (("instance.state=/etc/passwd/state",), "instance.state cannot be created; found /etc/passwd is a file"),
        (("session_model.base=/nowhere",), "session_model.base cannot be used"),
    ],
)
def test_run_refuses_what_no_waiting_heals(place, monkeypatch, more, words):
    monkeypatch.setattr(loop, "Daemon", None)  # never reached
    monkeypatch.setattr(loop, "log_to_stderr", lambda: None)
    with pytest.raises(ConfigError) as caught:
        loop.run(config.load(None, settings(place, *more)))
    assert words in str(caught.value)
    assert caught.value.hint
    assert not (place / "results").exists()


def test_run_needs_a_root_but_not_that_it_exists(place, monkeypatch):
    class Started(Exception):
        pass

    def started(*_):
        raise Started

    monkeypatch.setattr(loop, "Daemon", started)
    monkeypatch.setattr(loop, "log_to_stderr", lambda: None)
    with pytest.raises(ConfigError, match=r"watch\.root is not set"):
        loop.run(config.load(None, ("metrics.port=0",)))
    with pytest.raises(Started):
        loop.run(config.load(None, settings(place, f"watch.root={place / 'unmounted' / 'volume'}")))
