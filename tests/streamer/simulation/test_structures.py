import numpy as np
import pytest

from streamer.simulation.scenes import structures
from streamer.simulation.scenes.structures import STRUCTURES, icosahedral

PROTEIN_FACTOR_PER_KDA = 8 * (2.35 + 0.529) / 0.11
"""A residue of 110 Da is eight atoms and their hydrogens."""


def kda(specimen):
    return specimen.factors.sum() / PROTEIN_FACTOR_PER_KDA


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_seed_is_a_structure(name):
    one, again, other = (STRUCTURES[name](seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.positions, again.positions)
    assert one.positions.shape != other.positions.shape or not np.allclose(one.positions, other.positions)
    assert len(one.positions) == len(one.factors)


@pytest.mark.parametrize("seed", range(4))
def test_sizes(seed):
    assert 55.0 < kda(structures.small(seed)) < 100.0
    assert structures.small(seed).diameter < 130.0
    assert 300.0 < structures.virus(seed).diameter < 700.0
    assert 38.0 < kda(structures.actin(seed)) < 46.0
    across = np.linalg.norm(structures.tube(seed).positions[:, :2], axis=1)
    assert 200.0 < 2.0 * np.quantile(across, 0.95) < 320.0
    assert across.min() > 30.0, "a tube is hollow"


def test_sixty_rotations():
    group = np.array(icosahedral())
    assert group.shape == (60, 3, 3)
    np.testing.assert_allclose(np.linalg.det(group), 1.0)
    traces = np.trace(group, axis1=1, axis2=2).round(3)
    # twelve turns by ±72° and twelve by ±144° about fivefold axes, twenty about threefold, fifteen about twofold
    values, counts = np.unique(traces, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        -1.0: 15,
        -0.618: 12,
        0.0: 20,
        1.618: 12,
        3.0: 1,
    }


def test_a_virus_is_an_empty_shell():
    shell = structures.virus(3)
    distance = np.linalg.norm(shell.positions, axis=1)
    assert np.quantile(distance, 0.01) > 0.3 * np.quantile(distance, 0.99)


def test_a_vesicle_is_two_leaflets():
    distance = np.linalg.norm(structures.vesicle(1, 300.0).positions, axis=1)
    inner, outer = distance[distance < 300.0], distance[distance >= 300.0]
    assert inner.mean() == pytest.approx(281.0, abs=1.0)
    assert outer.mean() == pytest.approx(319.0, abs=1.0)
