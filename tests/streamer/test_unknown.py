"""What is not known is null, never 0, −1 or a number that a reader of JSON cannot hold."""

import json
import os
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from streamer import jsontext
from streamer.motion.track import Motion
from streamer.movie_record import MovieSource, OutputFile
from streamer.quality.checks import ctf_zeros, leak
from streamer.quality.images import image_of, size_of
from streamer.quality.of_files import quality_of
from streamer.runtime.memory import resident_bytes
from streamer.writers.mrc import encode_image
from streamer.writers.star import NOT_OBSERVED, micrograph_row, micrographs_star
from tests.service_samples import full_fields, make_record
from tests.streamer.quality.test_movie_quality import collect, sums_of

LENGTHS = ("total_motion_angstrom", "early_motion_angstrom", "late_motion_angstrom", "local_motion_angstrom")


def lengths(found):
    return tuple(getattr(found, name) for name in LENGTHS)


def test_motion_that_is_not_trusted_has_no_length():
    still = torch.zeros((4, 2), dtype=torch.float64)
    assert lengths(collect(sums_of(4.0), trusted=False, shifts=still)) == (None,) * 4
    # a specimen that really stood still did move by 0
    assert lengths(collect(sums_of(4.0), shifts=still)) == (0.0, 0.0, 0.0, 0.0)


def test_motion_up_to_an_exposure_that_is_not_known_is_not_known():
    total, early, late, local = lengths(collect(sums_of(4.0), dose_per_frame=None))
    assert (total > 10.0, early, late, local) == (True, None, None, 0.0)


@pytest.mark.parametrize(
    ("doses", "early"),
    # the frames that begin before 4 e⁻/Å²
    [((4.0, 1.0, 1.0, 1.0), 0.0), ((3.0, 2.0, 1.0, 1.0), 10.0), ((0.0, 3.0, 1.5, 9.0), 11.0)],
)
def test_early_motion_follows_the_doses_of_the_frames(doses, early):
    from streamer.quality import movie_quality
    from tests.streamer.quality import test_movie_quality as samples

    shifts = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.5], [3.0, 9.0]]).double()
    motion = Motion(shifts=shifts, information=1.0, trusted=True, iterations=1)
    frames = samples.Frames(
        counts=np.zeros((4, 8, 8), np.uint8), gain=None, defects=np.zeros((0, 2)), hot_pixels=np.zeros((0, 2)),
        mean_counts=1.0, pixel_size=2.0, voltage_kv=300.0, dose_per_frame=1.0, frame_doses=doses,
    )  # fmt: skip
    assert movie_quality._motion_lengths(motion, 2.0, frames)[1] == pytest.approx(early)


def test_a_curve_has_no_value_where_an_image_has_no_ring():
    found = collect(sums_of(4.0)).frc
    assert len(found) == 64
    rings = min(sums_of(4.0).shape) // 2 + 1
    assert sum(value is None for value in found) == (0 if rings > 64 else 64 - rings + 1)


@pytest.mark.parametrize("unknown", [LENGTHS[:3], LENGTHS[1:3]])
def test_a_star_table_says_not_observed_as_relion_does(unknown):
    fields = full_fields("grid1/a.tif")
    outputs = [
        {"role": role, "path": f"movies/a{role}", "bytes": 1, "sha256": "0" * 64, "pixel_size": 0.83}
        for role in ("micrograph", "motion", "even", "odd")
    ]
    record = make_record("grid1/a.tif", **fields)
    record = replace(
        record,
        outputs=[OutputFile(**output) for output in outputs],
        metrics=replace(record.metrics, **dict.fromkeys(unknown)),
    )
    words = micrographs_star([micrograph_row(record)]).splitlines()[-2].split()
    expected = {"total_motion_angstrom": 1.5, "early_motion_angstrom": 1.0, "late_motion_angstrom": 0.5}
    expected |= dict.fromkeys(unknown, NOT_OBSERVED)
    assert [float(word) for word in words[3:6]] == list(expected.values())


# ---------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (0.6499999999999999, 0.65),
        (0.1 + 0.2, 0.3),
        (float(np.float32(0.834)), 0.834),
        (float(np.float32(1.23)), 1.23),
        (1e-9 / 3.0, 3.333333e-10),
        (300000.0, 300000.0),
        (12345678, 12345678),
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (-(2**60), "-1152921504606846976"),
        (True, True),
        (None, None),
        ("0.6499999999999999", "0.6499999999999999"),
        (float("nan"), None),
    ],
)
def test_what_is_shown_is_rounded_to_its_meaning(value, meant):
    shown = json.loads(jsontext.shown({"a": [value, {"b": value}]}))
    assert shown == {"a": [meant, {"b": meant}]}
    assert type(shown["a"][0]) is type(meant)


def test_what_is_computed_with_is_not_rounded():
    assert json.loads(jsontext.encode({"a": 0.6499999999999999, "b": 2**60})) == {"a": 0.6499999999999999, "b": 2**60}


def test_a_record_is_the_same_for_all_who_hold_it():
    record = make_record("grid1/a.tif", **full_fields("grid1/a.tif"))
    record = replace(record, source=replace(record.source, pixel_size=0.6499999999999999))
    published = jsontext.as_shown(record)
    assert published.source.pixel_size == 0.65
    assert jsontext.as_shown(published) == published
    assert jsontext.shown(published) == jsontext.encode(published)


def test_times_of_change_keep_every_digit_and_old_records_still_read():
    fields = msgspec.to_builtins(full_fields("grid1/a.tif")["source"])
    assert fields["mtime_ns"] == "1795176000123456789"
    for written in ("1795176000123456789", 1795176000123456789):
        assert int(msgspec.convert(fields | {"mtime_ns": written}, MovieSource).mtime_ns) == 1795176000123456789
    # what a reader with doubles makes of it
    assert int(float(1795176000123456789)) != 1795176000123456789


# -------------------------------------------------------------------------------------------------------- quality


def halves(directory, emptied=None, pixel_size=1.0):
    """A pair of half images; ``emptied``: relative frequencies where a program has left nothing."""
    rng = np.random.default_rng(0)
    signal, paths = rng.standard_normal((96, 96)), []
    for name in ("even", "odd"):
        spectrum = np.fft.rfft2(signal + rng.standard_normal((96, 96)))
        if emptied is not None:
            radius = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(96)[None, :])
            spectrum[(radius > emptied[0]) & (radius < emptied[1])] = 0
        image = (np.fft.irfft2(spectrum, s=(96, 96)) + 40.0).astype(np.float32)
        paths.append(directory / f"{name}.mrc")
        paths[-1].write_bytes(encode_image(image, pixel_size=pixel_size, labels=[]))
    return paths


def test_a_ring_that_holds_nothing_has_no_figures(tmp_path):
    found = quality_of(*halves(tmp_path), None, None, (50.0, 3.0))
    assert found.shells[0] == {"spatial_frequency": 0.0, "frc": None, "ssnr_half": None, "ssnr_full": None}
    assert all(value is not None for shell in found.shells[1:] for value in shell.values())
    denoised = quality_of(*halves(tmp_path), *halves(tmp_path), (50.0, 3.0))
    assert {value for name, value in denoised.shells[0].items() if name != "spatial_frequency"} == {None}


def test_rings_that_a_program_has_emptied_have_no_figures(tmp_path):
    found = quality_of(*halves(tmp_path, emptied=(0.3, 1.0)), None, None, (50.0, 4.0))
    beyond = [shell for shell in found.shells if shell["spatial_frequency"] > 0.33]
    assert beyond
    assert {value for shell in beyond for name, value in shell.items() if name != "spatial_frequency"} == {None}


def test_checks_that_have_nothing_to_look_at_have_no_value():
    optics_free = torch.zeros((32, 17), dtype=torch.complex64)
    check = ctf_zeros(optics_free, optics_free, torch.ones((32, 17)), (32, 32), (0.1, 0.4))
    assert (check.ok, check.value, check.limit) == (True, None, None)


def test_leaks_that_no_shell_can_show_have_no_value():
    class Figures:
        signal = torch.ones(4)

    interval = (torch.zeros(4), torch.zeros(4))
    for check in leak(Figures, {"rho2": interval, "bias": interval}, torch.ones(4)):
        assert (check.ok, check.value) == (True, None)


def test_an_image_without_a_pixel_size_has_none(tmp_path):
    even, _ = halves(tmp_path, pixel_size=1.5)
    assert size_of(even)[1] == pytest.approx(1.5)
    raw = bytearray(even.read_bytes())
    raw[40:52] = bytes(12)
    even.write_bytes(raw)
    assert (size_of(even)[1], image_of(even)[1]) == (None, None)


def test_the_memory_of_a_process_that_is_gone_is_not_known():
    assert resident_bytes(os.getpid()) > 1 << 20
    assert resident_bytes(2**22 + 1) is None
