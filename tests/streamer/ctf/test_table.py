from pathlib import Path

import pytest

from streamer.ctf.table import key_of, optics_of, read_optics
from streamer.errors import UsageError

OPTICS = """data_optics
loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
1 300.0 2.7 0.07
2 200.0 1.4 0.1
"""
ROWS = """data_micrographs
loop_
_rlnMicrographName #1
_rlnDefocusU #2
_rlnDefocusV #3
_rlnDefocusAngle #4
_rlnPhaseShift #5
_rlnOpticsGroup #6
MotionCorr/job002/a.mrc 12000 11500 30 0 1
MotionCorr/job002/b_fractions.mrc 9000 8800 -10 90.5 2
"""
OLD = """data_
loop_
_rlnMicrographName #1
_rlnDefocusU #2
_rlnDefocusV #3
_rlnDefocusAngle #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
c.mrc 12000 11500 30 300 2.7 0.1
"""


def star(directory: Path, text: str) -> Path:
    path = directory / "ctf.star"
    path.write_text(text)
    return path


def test_defocus_comes_with_the_optics_of_its_group(tmp_path):
    found = read_optics(star(tmp_path, OPTICS + ROWS))
    assert set(found) == {"a", "b"}
    assert (found["a"].defocus_u_um, found["a"].defocus_v_um) == pytest.approx((1.2, 1.15))
    assert (found["a"].voltage_kv, found["a"].cs_mm, found["a"].amplitude_contrast) == (300.0, 2.7, 0.07)
    assert (found["b"].voltage_kv, found["b"].phase_shift_deg) == (200.0, 90.5)


def test_the_older_kind_has_everything_in_one_row(tmp_path):
    found = read_optics(star(tmp_path, OLD))["c"]
    assert (found.voltage_kv, found.phase_shift_deg, found.astigmatism_angle_deg) == (300.0, 0.0, 30.0)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.mrc", "a"),
        ("x/y/a_EVN.mrc", "a"),
        ("a_ODD_denoised.mrc", "a"),
        ("a_fractions_groups.safetensors", "a"),
        ("20170629_00021_frameImage.mrc", "20170629_00021_frameImage"),
        ("_EVN.mrc", "_EVN"),
        ("a.b.mrc", "a.b"),
    ],
)
def test_all_files_of_a_micrograph_have_one_key(name, key):
    assert key_of(name) == key


def test_what_is_no_such_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_optics(tmp_path / "none.star")
    with pytest.raises(UsageError, match=r"no CTF; expected _rlnMicrographName"):
        read_optics(star(tmp_path, OPTICS))
    with pytest.raises(UsageError, match=r"incomplete for .*a\.mrc"):
        read_optics(star(tmp_path, ROWS))
    with pytest.raises(UsageError, match="not a number"):
        read_optics(star(tmp_path, OLD.replace("12000", "far")))
    table = read_optics(star(tmp_path, OPTICS + ROWS))
    with pytest.raises(UsageError, match=r"CTF of a micrograph is missing; expected z; found a, b"):
        optics_of(table, "z_EVN.mrc", tmp_path)
    assert optics_of(table, "b_ODD.mrc", tmp_path) is table["b"]
