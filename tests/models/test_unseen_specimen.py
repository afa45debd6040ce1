"""The session denoiser against the Wiener filter, by the truth, on movies and a specimen that nobody tuned for."""

from __future__ import annotations

import pytest

from benchmarks import denoise


@pytest.mark.slow
def test_it_beats_each_micrographs_own_wiener_filter_and_tells_the_truth_about_it(monkeypatch):
    monkeypatch.setitem(denoise.SPECIMENS, "r777-1800", lambda: denoise.random_protein(777, 1800, 4))
    found = denoise.cell("r777-1800", 0.03, None)
    assert found["gate"].startswith("promoted"), found["gate"]
    assert found["worst"] > 1.3, found
    assert found["pooled"]["ours"] > 2.0 * found["pooled"]["wiener"], found["pooled"]
    assert found["refused"] == 0
    # ring by ring no linear filter can add anything: what is there was learned, and nothing may be lost
    for ours, raw in zip(found["bands"]["ours"], found["bands"]["raw"], strict=True):
        assert ours > 0.9 * raw - 0.01
    assert found["estimator"]["ratio"] == pytest.approx(1.0, abs=0.05)
    assert found["estimator"]["covered"]
