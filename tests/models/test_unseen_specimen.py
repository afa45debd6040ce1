"""The session model against the Wiener filter, by the truth, on movies and a specimen that nobody tuned for."""

from __future__ import annotations

import pytest

from benchmarks.denoise import session
from streamer.simulate import Microscope
from streamer.specimen import random_protein


@pytest.mark.slow
def test_it_beats_each_micrographs_own_wiener_filter():
    result = session(random_protein(777, residues=1800, domains=4), seed=77, scope=Microscope())
    gains = [served / wiener for _, _, wiener, served in result["scores"]]
    assert len(gains) >= 6
    assert min(gains) > 1.0, gains
    assert result["decision"].result == "promoted", result["decision"].reason
    # what the gate believed of its own held-out halves has to agree with the truth about other movies
    believed = [score.snbr / score.snbr_wiener for score in result["decision"].figures.scores]
    assert min(believed) >= 1.3
