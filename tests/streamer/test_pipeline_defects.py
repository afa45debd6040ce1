"""Movies with defects that nobody lists, or that a sidecar lists, from the file to the micrograph."""

from dataclasses import dataclass

import mrcfile
import numpy as np
import pytest

from streamer.metadata.sidecars import read_sidecar
from streamer.pipeline import process_movie
from streamer.readers.gain import read_gain
from streamer.runtime.stopwatch import Stopwatch
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import random_protein
from tests.jobs import job_of, movie_at

SCOPE = Microscope(shape=(256, 256), n_frames=8, pixel_size=2.0, dose_per_frame=3.0)
MDOC = "Voltage = 300\n\n[FrameSet = 0]\nPixelSpacing = 2.0\nExposureDose = 24.0\nNumSubFrames = 8\n"
COLUMNS_AND_BLOCK = ((np.s_[:, :, 60], 6), (np.s_[:, :, 120], 6), (np.s_[:, :, 180], 6), (np.s_[:, 40:45, 200:205], 40))


@dataclass
class Session:
    root: object
    counts: np.ndarray
    displacement: np.ndarray

    def process(self, name, counts, mdoc=MDOC):
        path = self.root / f"{name}.mrc"
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(counts)
            file.set_image_stack()
        path.with_name(path.name + ".mdoc").write_text(mdoc)
        movie = movie_at(path, read_sidecar(path))
        out = self.root / "out"
        record = process_movie(movie, job_of(out, read_gain(self.root / "gain.mrc")), Stopwatch())
        (image,) = [output for output in record.outputs if output.role == "micrograph"]
        with mrcfile.open(out / image.path) as file:
            return record, np.array(file.data)

    def error(self, record):
        """Of the shifts, px."""
        error = -np.array(record.metrics.shifts_yx_px) - self.displacement
        return float(np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean()))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("session")
    field, detector = Field(SCOPE, random_protein(1, 800), seed=2), Detector(SCOPE.shape, 5)
    with mrcfile.new(root / "gain.mrc") as file:
        file.set_data(detector.gain_reference())
    return Session(root, np.stack(list(field.frames(detector))), field.displacement)


@pytest.fixture(scope="module")
def clean(session):
    return session.process("clean", session.counts)


RECIPES = {
    "columns and a block": (COLUMNS_AND_BLOCK, np.add),
    "dead columns": (((np.s_[:, :, 100:103], 0), (np.s_[:, 30:200, 170], 0)), np.multiply),
    "a dead cluster": (((np.s_[:, 90:130, 60:72], 0),), np.multiply),
    "a hot block": (((np.s_[:, 100:105, 100:105], 100),), np.add),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_movie_with_wide_defects_gives_what_it_gives_without(session, clean, name):
    changes, how = RECIPES[name]
    counts, truth = session.counts.copy(), np.zeros(SCOPE.shape, bool)
    for place, value in changes:
        counts[place] = how(counts[place], np.uint8(value))
        truth[place[1:]] = True
    record, image = session.process(name.replace(" ", "_"), counts)
    good = np.ones(SCOPE.shape, bool)
    good[:24] = good[-24:] = good[:, :24] = good[:, -24:] = False
    assert np.corrcoef(image[good], clean[1][good])[0, 1] > 0.9
    assert record.metrics.n_wide_defects > 0
    assert 0.9 * truth.sum() <= record.metrics.n_hot_pixels <= truth.sum() + clean[0].metrics.n_hot_pixels + 3
    assert record.metrics.ssnr_full == pytest.approx(clean[0].metrics.ssnr_full, rel=0.15)
    assert session.error(record) < session.error(clean[0]) + 0.1
    assert record.flags == clean[0].flags


def test_a_clean_movie_has_no_wide_defects(clean):
    record, _ = clean
    assert (record.metrics.n_wide_defects, record.metrics.n_listed_defects) == (0, None)
    assert (record.source.defects, record.source.defects_path, record.flags) == (None, None, [])


def test_the_list_that_an_mdoc_names_is_used_and_recorded(session):
    mdoc = MDOC + "DefectFile = X:\\frames\\defects_listed.txt\n"
    (session.root / "defects_listed.txt").write_text("CameraSizeX 256\nCameraSizeY 256\nBadColumns 60\nBadPixels 3 4\n")
    record, _ = session.process("listed", session.counts, mdoc)
    assert record.source.acquisition.defect_file == "defects_listed.txt"
    assert record.metrics.n_listed_defects == 257
    assert record.source.defects_path == str(session.root / "defects_listed.txt")
    assert len(record.source.defects) == 64
    assert record.flags == []
    missing, _ = session.process("missing", session.counts, mdoc.replace("listed", "lost"))
    assert missing.flags == ["defects: the sidecar names defects_lost.txt, which is not there"]
    assert missing.metrics.n_listed_defects is None
