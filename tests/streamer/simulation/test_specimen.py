import gzip

import numpy as np
import pytest

from streamer.errors import UsageError
from streamer.simulation import specimen

PDB = """\
ATOM      1  N   ALA A   1      11.000  10.000   5.000  1.00  0.00           N
ATOM      2  CA  ALA A   1      13.000  10.000   5.000  1.00  0.00           C
ATOM      3  O   ALA A   1      12.000  13.000   8.000  1.00  0.00           O
END
"""


@pytest.fixture(scope="module")
def apoferritin():
    return specimen.apoferritin()


def test_apoferritin_is_a_hollow_shell_of_its_known_size(apoferritin):
    """24 chains of about 21 kDa: outer diameter 12 nm, inner 8 nm."""
    radii = np.linalg.norm(apoferritin.positions, axis=1)
    assert 30_000 < len(radii) < 45_000
    assert 115 < apoferritin.diameter < 135
    assert np.quantile(radii, 0.01) > 35
    np.testing.assert_allclose(apoferritin.positions.mean(0), 0.0, atol=0.01)


def test_apoferritin_has_a_fourfold_axis(apoferritin):
    """Turned by 90° about a coordinate axis it lies on itself, blurred to 4 Å."""

    def density(points):
        return np.histogramdd(points, bins=24, range=[(-72, 72)] * 3)[0]

    points = apoferritin.positions.astype(float)
    here = density(points)
    turned = density(np.stack([-points[:, 1], points[:, 0], points[:, 2]], 1))
    assert np.corrcoef(here.flat, turned.flat)[0, 1] > 0.9


def test_a_model_is_read_and_centred(tmp_path):
    path = tmp_path / "small.pdb"
    path.write_text(PDB)
    read = specimen.read_model(path)
    np.testing.assert_allclose(read.positions.sum(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(read.positions[1] - read.positions[0], [2.0, 0.0, 0.0], atol=1e-4)
    # a hydrogen for each atom, because none was deposited
    np.testing.assert_allclose(read.factors, [2.211 + 0.529, 2.509 + 0.529, 1.983 + 0.529], atol=1e-4)
    assert read.name == "small"


def test_deposited_hydrogens_are_not_counted_twice(tmp_path):
    path = tmp_path / "small.pdb"
    hydrogen = "ATOM      4  H   ALA A   1      11.500  10.500   5.000  1.00  0.00           H\n"
    path.write_text(PDB.replace("END\n", hydrogen + "END\n"))
    np.testing.assert_allclose(specimen.read_model(path).factors, [2.211, 2.509, 1.983, 0.529], atol=1e-4)


def test_a_gzipped_model_is_read(tmp_path):
    path = tmp_path / "small.pdb.gz"
    path.write_bytes(gzip.compress(PDB.encode()))
    assert len(specimen.read_model(path).positions) == 3


@pytest.mark.parametrize("content", [None, "END\n", ""])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.pdb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"model\.pdb"):
        specimen.read_model(path)


def test_a_random_protein_is_the_same_for_a_seed_and_another_for_the_next():
    one, again, other = (specimen.random_protein(seed, 400) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.positions, again.positions)
    assert not np.allclose(one.positions[:100], other.positions[:100])


def test_a_random_protein_is_as_dense_as_protein():
    """A domain holds 134 Å³ per residue: of one domain of 600 residues nearly all atoms lie within its radius."""
    protein = specimen.random_protein(0, residues=600, domains=1)
    radius = (3 * 134 * 600 / (4 * np.pi)) ** (1 / 3)
    assert len(protein.positions) == 8 * 600
    assert (np.linalg.norm(protein.positions, axis=1) < radius + 3.0).mean() > 0.97


@pytest.mark.parametrize(("voltage_kv", "phase"), [(300.0, 0.03127), (200.0, 0.03491)])
def test_the_phase_of_an_atom(voltage_kv, phase):
    """λ γ-corrected: σ = 6.526e-4 and 7.288e-4 rad/(V Å) (Kirkland), times 47.878 V Å² per Å of scattering factor."""
    assert specimen.phase_of_atom(voltage_kv) == pytest.approx(phase, rel=2e-3)


def test_displaced_ice_takes_contrast_from_coarse_shape_only():
    low, high = specimen.solvent_contrast(np.array([0.0, 0.5], dtype=np.float32))
    assert low == pytest.approx(0.42)
    assert high == pytest.approx(1.0, abs=1e-4)


def test_ice_has_its_ring_at_3_7_angstrom():
    frequency = np.linspace(0.01, 0.6, 600, dtype=np.float32)
    amplitude = specimen.ice_amplitude(frequency)
    assert 1 / frequency[amplitude.argmax()] == pytest.approx(3.7, abs=0.15)
    assert amplitude[0] < 0.6 * amplitude[-1]


def test_rotations_are_rotations_and_even():
    rotations = specimen.random_rotations(np.random.default_rng(0), 4000).astype(float)
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (4000, 3, 3)), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-5)
    # uniform on SO(3): mean 0, second moment 1/3
    np.testing.assert_allclose(rotations.mean(0), 0.0, atol=0.04)
    np.testing.assert_allclose((rotations**2).mean(0), 1 / 3, atol=0.03)
