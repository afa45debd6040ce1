"""What is typed wrongly: one line that says what, an exit status of its own, and nothing computed or removed before."""

import json
import os

import pytest

from service.cli import main, movies
from service.demo.run import MARKER, Demo
from service.journal.database import lock_instance
from service.journal.journal import Journal
from service.layout import Endpoints, layout_of, write_endpoints
from service.subscribers.picker import Picked
from streamer.errors import Reason, UsageError
from tests.service_samples import UTC, make_movie, make_record


@pytest.fixture
def streamer(tmp_path, monkeypatch, capsys):
    """Run a command line as ``main`` does; exit status, standard output and the lines of standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))

    def run(*words):
        monkeypatch.setattr("sys.argv", ["streamer", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main.main()
        told = capsys.readouterr()
        return caught.value.code, told.out, told.err.splitlines()

    return run


@pytest.fixture
def refuse(streamer):
    """Run a command line that is refused; the one line that says why."""

    def run(*words, status=64):
        code, out, lines = streamer(*words)
        assert code == status, lines
        assert out == ""
        (line,) = lines
        return line

    return run


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state" / "cryoem-streamer" / "default"


# ------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "words",
    [
        *(("simulate", "out", "--pixel-size", value) for value in ("0", "-1", "nan", "inf", "ten")),
        *(("simulate", "out", "--voltage-kv", value) for value in ("0", "nan")),
        *(("simulate", "out", "--defocus", *values) for values in (("nan", "1"), ("1", "inf"))),
        *(("simulate", "out", "--coverage", value) for value in ("-1", "5", "nan")),
        *(("simulate", "out", "--dose-per-frame", value) for value in ("-1", "0", "nan")),
        *(("simulate", "out", "--interval", value) for value in ("-3", "nan")),
        *(("simulate", "out", "--write-time", value) for value in ("nan", "inf")),
        ("simulate", "out", "--seed", "-1"),
        ("simulate", "out", "--size", "0", "0"),
        ("demo", "--minutes", "nan"),
        ("demo", "--seed", "-1"),
        *(("pick", "--diameter", value) for value in ("nan", "inf", "0")),
        ("pick", "--diameter", "130", "--threshold", "nan"),
        ("pick", "--diameter", "130", "--idle", "nan"),
        ("subscribe", "--idle", "-1"),
        *(("process", "m.mrc", "--output", "out", "--pixel-size", value) for value in ("0", "nan")),
        ("motion", "m.mrc", "--voltage-kv", "inf"),
        ("motion", "m.mrc", "--dose-per-frame", "-1"),
        ("motion", "m.mrc", "--cs-mm", "nan"),
        ("motion", "m.mrc", "--amplitude-contrast", "2"),
        *(("quality", "a.mrc", "b.mrc", "--pixel-size", value) for value in ("0", "nan")),
        ("quality", "a.mrc", "b.mrc", "--band", "100", "nan"),
        ("models", "train", "x", "--out", "v", "--seconds", "nan"),
        ("models", "train", "x", "--out", "v", "--seed", "-1"),
    ],
    ids=" ".join,
)
def test_a_number_out_of_its_range_is_refused_by_name(refuse, tmp_path, words):
    option = next(word for word in reversed(words) if word.startswith("--"))
    assert option in refuse(*words)
    assert list(tmp_path.iterdir()) == []


def test_options_of_simulate_that_contradict_each_other_are_refused(refuse, tmp_path):
    assert "the minimum, then the maximum" in refuse("simulate", "out", "--defocus", "3", "1")
    line = refuse("simulate", "out", "--movies", "1", "--first", "4", "--corrupt", "7")
    assert "expected 4 to 4; found 7" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("demo", "--directory", "{}"),
        ("simulate", "{}"),
        ("simulate", "{}/below"),
        ("process", "m.mrc", "--output", "{}"),
        ("super-resolve", "m.mrc", "--output", "{}/a/b"),
        ("denoise", ".", "--model", "v", "--output", "{}"),
        ("models", "train", "x", "--out", "{}"),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_file_where_a_directory_is_needed_is_refused_before_anything_is_computed(refuse, tmp_path, words):
    file = tmp_path / "config.toml"
    file.write_text("precious")
    line = refuse(*(word.format(file) for word in words))
    assert f"{file} is a file; a directory is needed" in line
    assert file.read_text() == "precious"


def test_demo_empties_only_what_a_demo_has_made(refuse, tmp_path):
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "sub" / "thesis.tex").write_text("precious")
    assert "not empty, and not made by an earlier demo" in refuse("demo", "--directory", mine)
    assert (mine / "sub" / "thesis.tex").read_text() == "precious"
    # one that a demo has left, and an empty one, are taken
    old, empty = tmp_path / "old", tmp_path / "empty"
    old.mkdir()
    empty.mkdir()
    (old / MARKER).touch()
    (old / "picker.log").touch()
    for directory in (old, empty):
        Demo(directory, movies=8, seed=1, limit_s=1.0)._prepare()
        assert [path.name for path in directory.iterdir()] == [MARKER]


def test_init_names_a_directory_as_one_even_with_force(refuse, tmp_path):
    for words in (("init", tmp_path), ("init", tmp_path, "--force")):
        line = refuse(*words)
        assert "is a directory" in line
        assert f"{tmp_path}/config.toml" in line


def test_what_the_system_refuses_is_one_line_too(refuse, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/out/m.mrc")

    monkeypatch.setattr("service.cli.simulate.plan_of", full)
    assert refuse("simulate", "out", status=74) == "streamer: /out/m.mrc: No space left on device"


# --------------------------------------------------------------------------------------------- names and choices


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (("subscribe", "--kind", "bogus"), "'movie', 'model', 'alert', 'session'"),
        (("movies", "list", "--state", "bogus"), "'failed', 'quarantined'"),
        (("movies", "retry", "--state", "done"), "'failed', 'quarantined'"),
        (("simulat", "x"), "Did you mean 'simulate'"),
    ],
    ids=str,
)
def test_a_typo_is_answered_with_what_is_known(refuse, words, known):
    assert known in refuse(*words)


@pytest.mark.parametrize(
    "words", [("list",), ("show", "v0001"), ("promote", "v0001"), ("rollback",)], ids=lambda words: words[0]
)
def test_a_session_that_nothing_was_learned_in_is_refused_with_those_that_are_known(refuse, state, words):
    (state / "sessions" / "grid1" / "models").mkdir(parents=True)
    line = refuse("models", *words, "--session", "nope")
    assert "found nope; known: grid1" in line


def test_an_unknown_version_is_a_usage_error_of_every_command(refuse, state, tmp_path):
    (state / "sessions" / "grid1" / "models").mkdir(parents=True)
    (tmp_path / "m.mrc").touch()
    for words in (("models", "show", "v0009"), ("models", "promote", "v0009")):
        assert "there is no such version; found v0009; known: none" in refuse(*words)
    assert "found v0009" in refuse("process", "m.mrc", "--output", "out", "--model", "v0009")


def test_models_train_looks_at_the_name_of_the_new_version_first(refuse, tmp_path):
    (tmp_path / "v0001").mkdir()
    assert "already exists" in refuse("models", "train", "nothing", "--out", "v0001")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("motion", "m.mrc", "--pixel-size", "1.5e-10"), "in Å/px; 1.5e-10 looks like metres: 1.5"),
        (("process", "m.mrc", "--output", "out", "--voltage-kv", "300000"), "in kV; 300000 looks like volts: 300"),
        (("motion", "m.mrc", "--cs-mm", "2700"), "in mm; 2700 looks like µm: 2.7"),
        (("motion", "m.mrc", "--amplitude-contrast", "10"), "10 looks like percent: 0.1"),
        (
            ("super-resolve", "m.mrc", "--output", "out", "--dose-per-frame", "50"),
            "looks like the dose of the whole movie",
        ),
        (("quality", "a.mrc", "b.mrc", "--pixel-size", "1e-10"), "1e-10 looks like metres: 1"),
        (("motion", "m.mrc", "--pixel-size", "1,5"), "'1,5' is not a valid number"),
    ],
    ids=lambda words: words[-2] if isinstance(words, tuple) else "",
)
def test_an_option_that_no_microscope_has_is_refused_with_the_likely_intention(refuse, tmp_path, words, meant):
    line = refuse(*words)
    assert meant in line
    assert words[-2] in line
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ files and names


def test_an_error_names_its_movie_once(streamer, tmp_path):
    code, _, lines = streamer("process", "none.mrc", tmp_path, "--output", "out")
    assert code == 1
    assert lines[0] == "none.mrc: there is no such file"
    assert lines[1].count(str(tmp_path)) == 1


def test_odd_file_names_stay_on_their_line(streamer):
    name = os.fsdecode(b"two\nlines \x1b[31m \xff.mrc")
    code, _, lines = streamer("process", name, "--output", "out")
    assert (code, lines) == (1, ["two?lines ?[31m ?.mrc: there is no such file"])
    code, _, lines = streamer("motion", name)
    assert (code, lines) == (64, ["streamer: two?lines ?[31m ?.mrc: there is no such file"])


def test_quality_says_that_it_was_given_empty_directories_or_nothing(refuse, tmp_path):
    assert "no images with the same name; expected one of each micrograph" in refuse("quality", tmp_path, tmp_path)
    assert refuse("quality", "none.mrc", "x.mrc") == ("streamer: none.mrc: there is no such file or directory")


# --------------------------------------------------------------------------------------------------- the journal


@pytest.fixture
def ended(state):
    """A journal with movies that ended badly; ids by their names."""
    state.mkdir(parents=True)
    journal = Journal.open(state / "journal.sqlite")
    odd = os.fsdecode(b"grid1/odd\n\xff.tif")
    states = {"grid1/a.tif": "failed", "grid1/b.tif": "quarantined", odd: "failed", "grid1/c.tif": "skipped"}
    ids = {}
    for name, ending in states.items():
        reason = Reason(error="MovieCorrupt", message=f"{name}: cut\nshort")
        movie = make_movie(name)
        journal.add_final(movie, make_record(name, state=ending, reason=reason), UTC)
        ids[name] = movie.movie_id
    journal.close()
    return ids


def states_of(state):
    journal = Journal.open(state / "journal.sqlite", read_only=True)
    try:
        return {movie.movie_id: movie.state for movie in journal.movies.newest()}
    finally:
        journal.close()


def test_movies_are_listed_one_a_line_whatever_they_are_called(streamer, ended):
    code, out, _ = streamer("movies", "list", "--state", "failed")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 2
    assert "grid1/odd??.tif  grid1/odd??.tif: cut?short" in lines[0]
    out.encode("utf-8")


def test_movies_of_a_state_are_retried_together(streamer, state, ended):
    code, out, _ = streamer("movies", "retry", "--state", "failed")
    assert code == 0
    assert [line.split(":")[1] for line in out.splitlines()] == [" ready, revision 1"] * 2
    assert sorted(states_of(state).values()) == ["quarantined", "ready", "ready", "skipped"]
    assert streamer("movies", "retry", "--state", "failed") == (0, "", ["no movie is failed"])


def test_a_movie_that_cannot_be_retried_does_not_stop_the_others(streamer, state, ended):
    a, b = ended["grid1/a.tif"], ended["grid1/b.tif"]
    code, out, lines = streamer("movies", "retry", a, "0123456789abcdef", b, a)
    assert code == 1
    assert out == f"{a}: ready, revision 1\n{b}: ready, revision 1\n"
    assert len(lines) == 1
    assert lines[0].startswith("0123456789abcdef: the journal does not know this movie")
    assert [states_of(state)[movie] for movie in (a, b)] == ["ready", "ready"]
    # one alone is refused as such, and so is no choice or two
    assert streamer("movies", "retry", a)[0] == 64
    assert streamer("movies", "retry")[0] == 64
    assert streamer("movies", "retry", a, "--state", "failed")[0] == 64


def test_movies_are_named_by_what_people_know_of_them(streamer, state, ended, tmp_path):
    a, path = ended["grid1/a.tif"], str(tmp_path / "movies" / "grid1" / "a.tif")
    for name in (a, "grid1/a.tif", "a.tif", "a", "./grid1/a.tif"):
        code, out, _ = streamer("movies", "show", name, "--json")
        assert (code, json.loads(out)["movie_id"]) == (0, a), name
    code, out, _ = streamer("movies", "retry", "a.tif", a, "grid1/b.tif")
    assert (code, out) == (0, "a.tif: ready, revision 1\ngrid1/b.tif: ready, revision 1\n")
    assert streamer("movies", "skip", "b")[:2] == (0, "b: skipped\n")
    assert [states_of(state)[ended[name]] for name in ("grid1/a.tif", "grid1/b.tif")] == ["ready", "skipped"]
    code, _, (line,) = streamer("movies", "show", "d.tif")
    assert code == 64
    assert "did you mean" in line
    assert streamer("movies", "skip", path)[0] == 64  # elsewhere


def test_the_newest_revision_is_meant(streamer, state):
    state.mkdir(parents=True)
    journal = Journal.open(state / "journal.sqlite")
    movie = make_movie("grid1/GridSquare_7/Data/FoilHole_12_Data_3_4_x_Fractions.tiff")
    journal.add_final(movie, make_record(movie.relative, state="done"), UTC)
    journal.retry(movie.movie_id)
    journal.close()
    code, out, _ = streamer("movies", "show", "FoilHole_12", "--json")
    assert (code, json.loads(out)["revision"]) == (0, 2)


def test_a_running_daemon_is_asked_about_each_movie(streamer, server, state, monkeypatch):
    asked = []

    def control(verb, arguments):
        asked.append((verb, arguments["movie_id"]))
        if arguments["movie_id"] == "bad":
            raise UsageError("the movie is already waiting or being processed", where="bad")
        return {"state": "ready", "revision": 2}

    server.call(lambda _, publisher: setattr(publisher.replies, "control", control))
    state.mkdir(parents=True)
    layout = layout_of(movies.load_config(None, ()))
    places = {"events": server.events, "journal": server.journal, "local": server.local}
    write_endpoints(layout, Endpoints(instance="default", metrics="", pid=0, **places))
    with lock_instance(state):
        code, out, lines = streamer("movies", "retry", "good", "bad", "better")
    assert code == 1
    assert out == "good: ready, revision 2\nbetter: ready, revision 2\n"
    assert lines == ["bad: the movie is already waiting or being processed"]
    assert asked == [("retry", name) for name in ("good", "bad", "better")]


@pytest.mark.parametrize("words", [("subscribe",), ("pick", "--diameter", "130")], ids=lambda words: words[0])
def test_with_idle_a_daemon_that_is_not_there_is_an_error(refuse, monkeypatch, words):
    monkeypatch.setattr(main, "_LEAST_LOST_S", 0.2)
    ports = ("--set", "events.events_port=1", "--set", "events.journal_port=2")
    line = refuse(*words, "--idle", "0.1", *ports, status=74)
    assert "no heartbeat from the daemon" in line


def test_a_pickers_error_stays_on_its_line(streamer, monkeypatch):
    def follow(*_, **__):
        yield UsageError("cannot\nbe picked", where=os.fsdecode(b"a\xff.mrc"))

    monkeypatch.setattr("service.subscribers.picker.follow", follow)
    code, _, lines = streamer("pick", "--diameter", "130", "--idle", "1")
    assert (code, lines) == (1, ["a?.mrc: cannot?be picked"])


def test_pick_as_json_has_the_note_and_what_was_left_out(streamer, monkeypatch):
    one = Picked(movie_id="1", micrograph="a.mrc", coordinates="a.star", particles=0, not_specimen=0.25, note="why")
    monkeypatch.setattr("service.subscribers.picker.follow", lambda *_, **__: iter([one]))
    code, out, _ = streamer("pick", "--diameter", "130", "--idle", "1", "--json")
    found = json.loads(out)
    assert (code, found["not_specimen"], found["note"]) == (0, 0.25, "why")
