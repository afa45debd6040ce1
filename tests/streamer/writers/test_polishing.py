import shutil
import subprocess

import gemmi
import mrcfile
import numpy as np
import pytest

from streamer.motion import align, field
from streamer.settings import MotionSettings
from streamer.writers.star import motion_star
from tests.streamer.motion.bent_movies import bent

MICROGRAPHS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnMicrographPixelSize #7
opticsGroup1 1 1.0 300.0 2.7 0.1 1.0

# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnMicrographMetadata #2
_rlnOpticsGroup #3
movie.mrc movie.star 1
"""
PARTICLES = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnImagePixelSize #7
_rlnImageSize #8
_rlnImageDimensionality #9
opticsGroup1 1 1.0 300.0 2.7 0.1 1.0 64 2

# version 30001

data_particles

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnImageName #3
_rlnMicrographName #4
_rlnOpticsGroup #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnOriginXAngst #9
_rlnOriginYAngst #10
_rlnDefocusU #11
_rlnDefocusV #12
_rlnDefocusAngle #13
_rlnRandomSubset #14
"""
REFERENCE = """
# version 30001

data_general

_rlnFinalResolution 3.5
_rlnUnfilteredMapHalf1 half1.mrc
_rlnUnfilteredMapHalf2 half2.mrc
_rlnMaskName mask.mrc

# version 30001

data_fsc

loop_
_rlnSpectralIndex #1
_rlnResolution #2
_rlnAngstromResolution #3
_rlnFourierShellCorrelationCorrected #4
_rlnFourierShellCorrelationUnmaskedMaps #5
_rlnFourierShellCorrelationMaskedMaps #6
_rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps #7
"""


def write(path, values):
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.voxel_size = 1.0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("relion_motion_refine") is None, reason="RELION is not installed")
def test_relions_bayesian_polishing_reads_our_motion(tmp_path):
    """From the per-movie STAR with a local model to shiny particles; the curves themselves are compared elsewhere."""
    frames, _ = bent(n_frames=12, shape=(512, 512), strength=2.5, contrast=0.2)
    motion = align.estimate_motion(lambda i: frames[i], 12, 1.0, MotionSettings())
    assert motion.local is not None
    write(tmp_path / "movie.mrcs", frames.numpy().astype(np.int8))
    write(tmp_path / "movie.mrc", frames.sum(0).numpy())
    text = motion_star(
        movie="movie.mrcs",
        n_frames=12,
        height=512,
        width=512,
        shifts_yx_px=motion.shifts.tolist(),
        original_pixel_size=1.0,
        voltage_kv=300.0,
        dose_per_frame=1.2,
        local_model=field.relion_model(motion.local)[0],
    )
    (tmp_path / "movie.star").write_text(text)
    (tmp_path / "micrographs.star").write_text(MICROGRAPHS)
    rng = np.random.default_rng(0)
    places, angles = rng.integers(60, 450, (12, 2)), rng.uniform(0, 180, (12, 3))
    rows = [
        f"{x} {y} {n + 1:06d}@Extract/movie.mrcs movie.mrc 1 {a:.3f} {b:.3f} {c:.3f} 0 0 11000 11000 0 {n % 2 + 1}"
        for n, ((x, y), (a, b, c)) in enumerate(zip(places, angles, strict=True))
    ]
    (tmp_path / "particles.star").write_text(PARTICLES + "\n".join(rows) + "\n")
    z, y, x = np.meshgrid(*[np.arange(64) - 32] * 3, indexing="ij")
    density = np.exp(-(z**2 + y**2 + x**2) / 150.0) + 0.5 * np.exp(-((z - 8) ** 2 + (y + 5) ** 2 + x**2) / 30.0)
    for half in (1, 2):
        noisy = density + 0.05 * rng.standard_normal(density.shape)
        write(tmp_path / f"half{half}.mrc", noisy.astype(np.float32))
    write(tmp_path / "mask.mrc", (density > 0.05).astype(np.float32))
    shells = [(i, i / 64, 64 / max(i, 0.1), *[max(0.0, 1 - i / 25)] * 3, 0.01) for i in range(33)]
    (tmp_path / "postprocess.star").write_text(REFERENCE + "".join(" ".join(map(str, one)) + "\n" for one in shells))
    command = (
        "relion_motion_refine --i particles.star --f postprocess.star --corr_mic micrographs.star --first_frame 1 "
        "--last_frame -1 --o Polish --s_vel 0.2 --s_div 5000 --s_acc 2 --combine_frames --bfac_minfreq 20 "
        "--bfac_maxfreq -1 --j 2"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    shiny = gemmi.cif.read(str(tmp_path / "Polish" / "shiny.star")).find_block("particles")
    assert len(shiny.find_loop("_rlnImageName")) == 12
    tracks = gemmi.cif.read(str(tmp_path / "Polish" / "movie_tracks.star"))
    assert [block.name for block in tracks] == ["general", *(str(number) for number in range(12))]
    for block in list(tracks)[1:]:
        assert len(block.find_loop("_rlnOriginXAngst")) == 12
