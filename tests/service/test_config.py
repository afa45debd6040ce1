import re

import pytest

from service import config
from streamer.errors import ConfigError


def refused(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 78
    return str(caught.value)


def test_without_a_file_there_are_the_defaults():
    assert config.load(None) == config.Config()


def test_values_of_the_file_and_overrides_that_come_last(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[movie]\npixel_size = 0.83\nvoltage_kv = 200.0\n[watch]\nroot = "/data/a b"\n')
    found = config.load(path, ("movie.voltage_kv=300", "session.name=grid_7", 'watch.include=["*.tif"]'))
    assert (found.movie.pixel_size, found.movie.voltage_kv) == (0.83, 300.0)
    assert found.watch.root == "/data/a b"
    assert found.session.name == "grid_7"
    assert list(found.watch.include) == ["*.tif"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[watch]\nrooot = 'x'", "unknown setting; found watch.rooot; did you mean root?"),
        ("[wacht]\nroot = 'x'", "unknown table; found [wacht]; did you mean watch?"),
        ("[watch]\nqqq = 1", "known: root, include"),
        ("watch = 3", "not a table; found watch"),
        ("[watch]\nsettle_s = 'long'", 'expected a number; found watch.settle_s = "long"; meaning: size, times'),
        ("[watch]\nsettle_s = -1.0", "settle_s"),
        ("[watch]\nsettle_s = nan", "settle_s"),
        ("[movie]\npixel_size = 0.0", "must be positive; expected > 0; found movie.pixel_size = 0.0"),
        ("[movie]\ndose_per_frame = inf", "not a finite number"),
        ("[ctf]\ndefocus_low_um = 3\ndefocus_high_um = 1", "the range is empty; expected the low end of ctf.defocus"),
        ("[ctf]\nphase_shift_low = 90", "the range is empty; expected the low end of ctf.phase_shift"),
        ("[quality]\nband_low = 5.0", "the band is empty; expected quality.band_low > quality.band_high"),
        ("[outputs]\ndtype = 'float64'", "float64"),
        ("[instance]\nname = 'my scope'", "not a valid name; expected letters, digits"),
        (f"[instance]\nname = '{'x' * 33}'", "at most 32"),
        ("[session]\nname = '../x'", "found session.name = '../x'"),
        ("[events]\nbind = '0.0.0.0'", "binding beyond loopback is refused"),
        ("[events]\nevents_port = 5571", "two sockets share a port; expected different ports, or 0"),
        ("[metrics]\nport = 5570", "metrics.port = 5570"),
        ("[watch]\nroot = ''", "must name a directory"),
        ("[watch\n", "not valid TOML"),
        (b"[watch]\nroot = '\xff'", "not valid TOML"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(tmp_path, text, words):
    assert words in refused(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read; found No such file"):
        config.load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["watch.root", "root=x", "=x", "watch.=x", ".root=x"])
def test_an_override_has_a_form(text):
    with pytest.raises(ConfigError, match=re.escape("expected table.key=value")):
        config.load(None, (text,))


def test_an_override_of_something_unknown():
    with pytest.raises(
        ConfigError, match=re.escape("--set: unknown setting; found movie.pixel; did you mean pixel_size?")
    ):
        config.load(None, ("movie.pixel=1.0",))
