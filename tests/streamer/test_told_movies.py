"""What a sidecar says, from its file to the outputs: the same movie told in different words."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from streamer.metadata.search import SidecarSearch
from streamer.pipeline import process_movie
from streamer.readers.gain import read_gain
from streamer.runtime.stopwatch import Stopwatch
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein
from tests.jobs import job_of, movie_at
from tests.streamer.metadata.documents import mdoc_text

SCOPE = Microscope(shape=(128, 128), n_frames=8, pixel_size=2.0, dose_per_frame=3.0, voltage_kv=200.0)


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    """A movie of EPU with its sidecar, and its gain."""
    directory = tmp_path_factory.mktemp("microscope")
    plan = Plan(directory=directory, scope=SCOPE, specimen=random_protein(1, 800), format="mrc", truth=False)
    (made,) = expose(plan)
    (sidecar,) = made.path.parent.glob("*.xml")
    return made.path, sidecar, read_gain(directory / "gain_reference.mrc")


def processed(exposed, place: Path, sidecar_name: str, text: str, pixel_size: float | None = None, thinned=()):
    """The record and the micrograph of the movie with another sidecar, and its header's pixel size.

    Of the first frames, ``thinned`` is the share of the electrons that arrived.
    """
    path, _, gain = exposed
    movie = place / "movies" / path.name
    movie.parent.mkdir(parents=True)
    movie.write_bytes(path.read_bytes())
    rng = np.random.default_rng(4)
    with mrcfile.open(movie, mode="r+", permissive=True) as file:
        file.voxel_size = pixel_size or 1.0
        for index, share in enumerate(thinned):
            file.data[index] = rng.binomial(file.data[index], share)
    (movie.parent / sidecar_name).write_text(text)
    known = movie_at(movie, SidecarSearch()(movie))
    record = process_movie(known, job_of(place / "out", gain), Stopwatch())
    (micrograph,) = [file.path for file in record.outputs if file.role == "micrograph"]
    (motion,) = [file.path for file in record.outputs if file.role == "motion"]
    image = mrcfile.read(place / "out" / micrograph)
    return record, image, (place / "out" / motion).read_text()


def words(motion: str) -> dict[str, str]:
    lines = [line.split() for line in motion.splitlines() if line.startswith("_rlnMicrograph")]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_a_binned_preview_and_a_list_of_equal_fractions_change_nothing(exposed, tmp_path):
    _, sidecar, _ = exposed
    text = sidecar.read_text()
    record, image, _ = processed(exposed, tmp_path / "clean", sidecar.name, text)
    assert (record.source.pixel_size, record.source.pixel_size_from) == (pytest.approx(2.0), "sidecar")
    assert [flag for flag in record.flags if flag.startswith(("pixel_size", "dose", "sidecar"))] == []
    binned = text.replace(
        "<a:height>128</a:height><a:width>128</a:width>", "<a:height>64</a:height><a:width>64</a:width>"
    )
    binned = binned.replace("<a:x>1</a:x><a:y>1</a:y>", "<a:x>2</a:x><a:y>2</a:y>")
    binned = binned.replace("<numericValue>2e-10<", "<numericValue>4e-10<")
    assert binned.count("4e-10") == 2
    listed = "".join(
        f"<a:anyType><b:EndFrameNumber>{2 * n + 2}</b:EndFrameNumber>"
        f"<b:StartFrameNumber>{2 * n + 1}</b:StartFrameNumber></a:anyType>"
        for n in range(8)
    )
    binned = binned.replace(
        "<b:NumberOffractions>8</b:NumberOffractions>", f"<b:DoseFractions>{listed}</b:DoseFractions>"
    )
    other, same, _ = processed(exposed, tmp_path / "binned", sidecar.name, binned)
    assert (other.source.pixel_size, other.source.pixel_size_from) == (pytest.approx(2.0), "sidecar, scaled")
    assert (other.source.dose_per_frame, other.source.frame_doses) == (record.source.dose_per_frame, None)
    assert other.flags == record.flags
    np.testing.assert_array_equal(same, image)


def test_uneven_doses_reach_the_weights_the_record_and_relion(exposed, tmp_path):
    path, _, _ = exposed
    told = {"PixelSpacing": 2, "NumSubFrames": 8, "ExposureDose": 24, "PriorRecordDose": "12,5", "Magnification": 64000}
    head = "T = SerialEM: a Krios\nVoltage = 200\n"

    def run(place: str, doses: str):
        text = mdoc_text(file=path.name, head=head, FrameDosesAndNumber=doses, **told)
        return processed(exposed, tmp_path / place, f"{path.stem}.mdoc", text, thinned=thinned)

    thinned = ()
    even, plain, _ = run("even", "3 8")
    # a list that the frames contradict is put right by their counts, and said
    contradicted, _, _ = run("contradicted", "1 4 5 4")
    assert any(flag.startswith("frames: exposed unlike the others") for flag in contradicted.flags)
    assert sum(contradicted.source.frame_doses) == pytest.approx(24.0, rel=1e-5)
    assert max(contradicted.source.frame_doses) < 1.1 * min(contradicted.source.frame_doses)
    thinned = (0.2,) * 4
    record, image, motion = run("uneven", "1 4 5 4")
    assert [flag for flag in record.flags if flag.startswith("frames")] == []
    assert (record.source.frame_doses, record.source.dose_per_frame) == ((1.0,) * 4 + (5.0,) * 4, 3.0)
    assert (even.source.frame_doses, even.source.dose_per_frame) == (None, 3.0)
    assert record.source.pre_exposure == 12.5
    found = words(motion)
    assert float(found["_rlnMicrographDoseRate"]) == 3.0
    assert float(found["_rlnMicrographPreExposure"]) == 12.5
    # the later frames, which are damaged more, weigh otherwise than with an average dose
    assert not np.array_equal(image, plain)
    counted, image_by_counts, _ = run("counted", "3 8")
    assert any(flag.startswith("frames: exposed unlike the others") for flag in counted.flags)
    assert np.corrcoef(image.ravel(), image_by_counts.ravel())[0, 1] > 0.95


def test_a_header_that_is_right_holds_against_a_binned_image_of_unknown_size(exposed, tmp_path):
    _, sidecar, _ = exposed
    text = (
        sidecar.read_text().replace("<numericValue>2e-10<", "<numericValue>4e-10<").replace("ReadoutArea", "Elsewhere")
    )
    record, _, _ = processed(exposed, tmp_path, sidecar.name, text, pixel_size=2.0)
    assert (record.source.pixel_size, record.source.pixel_size_from) == (2.0, "header")
    assert "pixel_size: header says 2, sidecar says 4" in record.flags
