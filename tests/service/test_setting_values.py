"""Values of settings that no microscope has, and values of the wrong kind, in the words of who typed them."""

import re
from pathlib import Path

import pytest

from service import config
from service.setting_values import doubts
from streamer.errors import ConfigError


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        config.load(None, overrides)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "found", "meant"),
    [
        ("movie.pixel_size=1.5e-10", "movie.pixel_size = 1.5e-10", "in Å/px; 1.5e-10 looks like metres: 1.5"),
        ("movie.pixel_size=0.083", "movie.pixel_size = 0.083", "in Å/px; 0.083 looks like nm: 0.83"),
        ("movie.voltage_kv=300000", "movie.voltage_kv = 300000", "in kV; 300000 looks like volts: 300"),
        ("movie.voltage_kv=0.2", "movie.voltage_kv = 0.2", "in kV; 0.2 looks like MV: 200"),
        ("movie.cs_mm=0.0027", "movie.cs_mm = 0.0027", "in mm; 0.0027 looks like metres: 2.7"),
        ("movie.cs_mm=2700", "movie.cs_mm = 2700", "in mm; 2700 looks like µm: 2.7"),
        ("movie.amplitude_contrast=7", "movie.amplitude_contrast = 7", "7 looks like percent: 0.07"),
        ("movie.dose_per_frame=50.0", "movie.dose_per_frame = 50", "50 looks like the dose of the whole movie"),
        ("eer.dose_per_fraction=40", "eer.dose_per_fraction = 40", "40 looks like the dose of the whole movie"),
        ("quality.band_high=0.6", "quality.band_high = 0.6", "in Å; 0.6 looks like nm: 6"),
        ("denoise.resolution=4e-10", "denoise.resolution = 4e-10", "in Å; 4e-10 looks like metres: 4"),
        ("movie.pre_exposure=1e20", "movie.pre_exposure = 1e+20", "1e+20 looks like e⁻/m²: 1"),
        ("motion.max_shift_angstrom=6e-9", "motion.max_shift_angstrom = 6e-09", "in Å; 6e-09 looks like metres: 60"),
        (
            "movie.pixel_size_by_magnification={105000 = 8.34e-11}",
            "movie.pixel_size_by_magnification: 105000 = 8.34e-11",
            "8.34e-11 looks like metres: 0.834",
        ),
        ("movie.pixel_size_by_magnification={105 = 0.834}", "magnification = 105", "105 looks like thousands: 105000"),
    ],
)
def test_what_no_microscope_has_is_refused_with_the_likely_intention(override, found, meant):
    message = refused(override)
    assert message.startswith("--set: no microscope has this ")
    assert f"{found}; " in message
    assert meant in message


def test_a_file_is_no_better_than_an_override(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[movie]\npixel_size = 1.5e-10\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path}: no microscope has this pixel size")):
        config.load(path)
    assert config.load(path, ("movie.pixel_size=1.5",)).movie.pixel_size == 1.5


def test_what_microscopes_have_is_taken():
    settings = config.load(
        None,
        (
            "movie.pixel_size=0.3",
            "movie.cs_mm=0.001",
            "movie.voltage_kv=80",
            "movie.dose_per_frame=2",
            "movie.pre_exposure=0",
        ),
    )
    assert (settings.movie.pixel_size, settings.movie.cs_mm, settings.movie.voltage_kv) == (0.3, 0.001, 80.0)
    assert doubts(settings) == []
    assert doubts(config.Config()) == []


def test_what_is_unusual_is_doubted_by_name():
    found = doubts(
        config.load(None, ("movie.pixel_size=0.25", "movie.dose_per_frame=12", "movie.amplitude_contrast=0.7"))
    )
    assert [line.split(":")[0] for line in found] == [
        "movie.pixel_size",
        "movie.amplitude_contrast",
        "movie.dose_per_frame",
    ]
    assert "if it is in nm, it means 2.5" in found[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("movie.pixel_size=0,834", 'expected a number; found movie.pixel_size = "0,834"; decimals have a point: 0.834'),
        ("movie.voltage_kv=300 kV", "give the number alone, without quotes and unit: 300"),
        ("movie.pixel_size=true", "expected a number; found movie.pixel_size = true; meaning: Å/px"),
        ("eer.upsampling=3", "expected one of 1, 2, 4; found eer.upsampling = 3"),
        ("outputs.dtype=float64", 'expected one of "float16", "float32"; found outputs.dtype = "float64"'),
        ("watch.include=*.tif", 'expected a list, [ ]; found watch.include = "*.tif"'),
        ("movie.amplitude_contrast=-1", "expected at least 0; found movie.amplitude_contrast = -1"),
        ("events.events_port=99999", "expected at most 65535; found events.events_port = 99999"),
        ("eer.group=1.5", "expected a whole number; found eer.group = 1.5"),
    ],
)
def test_a_value_of_the_wrong_kind_is_explained(override, words):
    message = refused(override)
    assert words in message
    assert not re.search(r"`|\$|null|float \||got ", message)


def test_a_file_of_another_editor_is_read_or_explained(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[movie]\npixel_size = 0.834\n")
    assert config.load(path).movie.pixel_size == 0.834
    path.write_text("[movie]\npixel_size = 0,834\n")
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2.*decimals have a point"):
        config.load(path)


# ------------------------------------------------------------------------------------------------ paths and patterns


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("watch.root=~/data", f"write the path out: {Path('~/data').expanduser()}"),
        ("outputs.root=~", "the sign ~ is not replaced in settings"),
        ("movie.gain=~nobody-here/gain.mrc", "the sign ~ is not replaced"),
        ("watch.root=$HOME/data", "variables are not replaced in settings"),
        ("outputs.root=/scratch/${USER}/out", "variables are not replaced in settings"),
        ("watch.root=X:\\EPU\\grid1", "a path of Windows"),
        ("watch.metadata_root=D:/EPU", "such as /mnt/epu"),
        (r'watch.follow_links_to=["\\\\k3\\frames"]', "a path of Windows"),
        ('watch.follow_links_to=["/data", ""]', "watch.follow_links_to is empty"),
        ('watch.include=["tif"]', 'write "*.tif"'),
        ('watch.include=["*.mrc", ".EER"]', 'write "*.EER"'),
        ('watch.include=["Images-Disc*/*.tif"]', "without directories"),
        ('watch.include=["*.{tif,mrc}"]', "one pattern for each kind of name"),
        ('watch.exclude=["*.tif, *.mrc"]', "one pattern for each kind of name"),
        ("watch.include=[]", "no file is a movie"),
        ('watch.exclude=["*"]', "leaves out every movie"),
        ('watch.include=["*.TIF"]\0watch.exclude=["*.tif", "*.tmp"]', "leaves out every movie"),
    ],
)
def test_a_path_or_pattern_that_never_fits_is_refused(override, words):
    assert words in refused(*override.split("\0"))


def test_odd_paths_and_patterns_that_fit_are_taken():
    settings = config.load(
        None,
        (
            'watch.root="/data/~backup/US$ 5/c:/x"',
            'watch.include=["*_fractions.tiff", "frames [0-9].mrc", "movie.tif", "*.dm4"]',
            'watch.exclude=["*.tif", ".*"]',
            'outputs.root="a~b"',
        ),
    )
    assert settings.watch.exclude == ("*.tif", ".*")
