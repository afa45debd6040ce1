"""False alarms: clean simulated movies of all formats raise no flag that says that something is wrong with them."""

from collections import Counter

import pytest

from tests.clean_movies import PER_SESSION, plans, processed

SESSIONS = 60
EXPECTED = (
    # small fields of weak movies cannot be aligned, and say so
    "motion: too little information",
    "motion: the fit did not settle",
    # the simulated SerialEM names the reference of its other formats for EER movies too
    "gain: the sidecar names CountRef_session.mrc, ",
)
_UNCERTAIN, _FEW = "motion: shifts are uncertain by ", 15
"""What weak movies of small fields say that are aligned, but not well; and how many may be so weak."""


@pytest.mark.slow
def test_300_clean_movies_of_all_formats_raise_no_flag(tmp_path):
    flags, movies, formats, uncertain = Counter(), 0, Counter(), 0
    for plan in plans(tmp_path / "in", SESSIONS):
        for record in processed(plan, tmp_path / "out"):
            assert record.state == "done"
            assert record.source.frames_left_out == ()
            movies += 1
            formats[record.source.format] += 1
            weak = any(flag.startswith(_UNCERTAIN) for flag in record.flags)
            assert weak is ((record.metrics.motion_error_px or 0.0) > 0.5)
            uncertain += weak
            flags.update(flag for flag in record.flags if not flag.startswith((*EXPECTED, _UNCERTAIN)))
    assert movies == SESSIONS * PER_SESSION == 300
    assert set(formats) == {"mrc", "tiff", "eer"}
    assert flags == {}
    assert uncertain <= _FEW
