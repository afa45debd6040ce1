"""``models train``: the version says in which band it works, and that is the one its movies were made in."""

from __future__ import annotations

import pytest

from models.manifest import load_manifest
from models.serving.session_model import SessionModel
from models.training.movie import common_resolution
from models.versions.checkpoint import load_pattern
from service.offline.train_denoiser import train_offline
from streamer.band import band_of
from streamer.errors import UsageError
from streamer.records import GroupSums
from streamer.sums.group_files import encode_groups
from tests.model_samples import blobs
from tests.simulated_movies import images

SHAPE = (144, 144)


def process(directory, *, resolution, pixel_size=2.0, movies=2, first=0, shape=SHAPE, fine=1.0):
    """Group sums as ``process --keep-groups`` leaves them for a setting of denoise.resolution."""
    directory.mkdir(exist_ok=True)
    small = band_of(shape, pixel_size, resolution, 100.0).small
    for number in range(first, first + movies):
        # as strong at the end of the band as anywhere, so that the band is learned in whole
        signal = (2.0 if fine else 0.3) * blobs(small, number) + fine * images(*small, seed=500 + number)
        groups = signal + images(6, *small, seed=1000 + number)
        sums = GroupSums(
            groups=groups.half(), exposures=((0.0,),) * 6, shape=shape, pixel_size=pixel_size, voltage_kv=300.0
        )
        (directory / f"m{number}.safetensors").write_bytes(encode_groups(f"m{number}", sums))
    return directory


def train(directories, out):
    train_offline(directories, out, steps=2, seconds=None, base=None, network="small", seed=0, ctf=None)
    return load_manifest(out)


@pytest.mark.parametrize("resolution", [6.0, 10.0, 4.0])
def test_the_network_is_applied_in_the_band_it_learned_in(tmp_path, resolution):
    groups = process(tmp_path / "groups", resolution=resolution)
    manifest = train([groups], tmp_path / "v0001")
    assert manifest.resolution == pytest.approx(resolution, rel=0.05)
    applied = band_of(SHAPE, 2.0, SessionModel(tmp_path / "v0001").manifest.resolution, manifest.low)
    assert applied.small == band_of(SHAPE, 2.0, resolution, 100.0).small


def test_a_band_without_signal_at_its_end_is_learned_in_as_far_as_there_is_some(tmp_path):
    groups = process(tmp_path / "groups", resolution=4.0, fine=0.0)
    manifest = train([groups], tmp_path / "v0001")
    assert 4.2 < manifest.resolution <= 20.0
    small = band_of(SHAPE, 2.0, manifest.resolution, manifest.low).small
    assert load_pattern(tmp_path / "v0001", manifest).shape == small
    assert manifest.pattern_sha256


def test_movies_of_two_bands_are_refused(tmp_path):
    fine = process(tmp_path / "fine", resolution=6.0)
    coarse = process(tmp_path / "coarse", resolution=10.0, first=2, movies=3)
    with pytest.raises(UsageError) as caught:
        train([fine, coarse], tmp_path / "v0001")
    text = str(caught.value)
    assert f"{fine}, {coarse}: the frame-group sums were made with different settings" in text
    assert "expected one band and one pixel size" in text
    assert "found movies with sums 3 to 10.3 Å at 2 Å/px, 2 to 6.0 Å at 2 Å/px" in text
    assert "train on each kind separately" in text
    assert not (tmp_path / "v0001").exists()


def test_movies_of_two_pixel_sizes_are_refused(tmp_path):
    one = process(tmp_path / "one", resolution=6.0)
    # the same band, made of other pixels
    other = process(tmp_path / "other", resolution=6.0, pixel_size=1.0, first=2, shape=(288, 288))
    with pytest.raises(UsageError, match=r"2 to 6.0 Å at 1 Å/px, 2 to 6.0 Å at 2 Å/px"):
        train([one, other], tmp_path / "v0001")


def test_pixel_sizes_that_differ_by_rounding_are_one(tmp_path):
    one = process(tmp_path / "one", resolution=6.0)
    other = process(tmp_path / "other", resolution=6.0, pixel_size=2.004, first=2)
    assert train([one, other], tmp_path / "v0001").resolution == 6.0


@pytest.mark.parametrize("pixel_size", [0.41, 0.83, 1.06, 1.7, 2.9, 4.0])
@pytest.mark.parametrize("shape", [(4092, 5760), (4096, 4096), (3838, 3710), (1001, 513)])
@pytest.mark.parametrize("resolution", [2.0, 4.0, 6.0, 7.3, 10.0, 25.0])
def test_every_band_tells_its_resolution(shape, pixel_size, resolution):
    band = band_of(shape, pixel_size, resolution, 100.0)
    other = band_of((shape[1], shape[0] - 9), pixel_size, resolution, 100.0)
    found = common_resolution([band, other], 6.0)
    for one in (band, other):
        assert band_of(one.shape, pixel_size, found, 100.0) == one
    if resolution in (4.0, 10.0) and resolution > 2.5 * pixel_size and min(shape) > 3000:
        assert found == resolution, "the roundest is what people set"


def test_bands_without_a_common_resolution_have_none():
    bands = [band_of((1024, 1024), 1.0, resolution, 100.0) for resolution in (6.0, 6.3)]
    assert common_resolution(bands, 6.0) is None
    bands = [band_of((1024, 1024), pixel_size, 6.0, 100.0) for pixel_size in (1.0, 1.2)]
    assert common_resolution(bands, 6.0) is None
