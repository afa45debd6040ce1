"""The normal equations against loops over frames in float64."""

import math

import numpy as np
import pytest
import torch

from streamer import dose
from streamer.super_resolution.normal_equations import ALIASES, AliasGrid, NormalEquations, box_of
from tests.simulated_movies import images, unchanged

SIDE, PIXEL_SIZE, VOLTAGE_KV = 12, 1.3, 300.0
RNG = np.random.default_rng(7)
FRACTIONS = torch.from_numpy(RNG.uniform(-0.5, 0.5, (24, 2, 2)))
"""24 frames, two tiles."""


def grid_of(*, weighted=True, blur=None):
    return AliasGrid(SIDE, PIXEL_SIZE, VOLTAGE_KV, weighted=weighted, blur=blur)


def frequencies():
    """(4, side, side//2+1) rows and columns in cycles per physical px."""
    offsets = np.array(ALIASES, dtype=float)
    rows = np.arange(SIDE)[None, :, None] / SIDE - offsets[:, 0, None, None]
    columns = np.arange(SIDE // 2 + 1)[None, None, :] / SIDE - offsets[:, 1, None, None]
    return np.broadcast_arrays(rows, columns)


def decay():
    radius = np.hypot(*frequencies()) / PIXEL_SIZE
    with np.errstate(divide="ignore"):
        return 0.5 / (0.245 * radius**-1.665 + 2.81)


def seen(fractions, exposures):
    """A_t(F_a) of one tile: (t, 4, side, side//2+1) complex128."""
    y, x = frequencies()
    box = (1 + np.exp(1j * math.pi * y)) / 2 * (1 + np.exp(1j * math.pi * x)) / 2
    return np.stack(
        [
            box * np.exp(-float(n) * decay()) * np.exp(2j * math.pi * (y * sy + x * sx))
            for (sy, sx), n in zip(fractions.numpy(), exposures.numpy(), strict=True)
        ]
    )


def aliases_of(tiles):
    """Coefficients (4, n, side, side//2+1) of fine tiles: a quarter of theirs."""
    fine = np.fft.fft2(tiles.double().numpy()) / 4.0
    rows, columns = np.arange(SIDE)[:, None], np.arange(SIDE // 2 + 1)
    picked = [fine[:, (rows - dy * SIDE) % (2 * SIDE), (columns - dx * SIDE) % (2 * SIDE)] for dy, dx in ALIASES]
    return torch.from_numpy(np.stack(picked)).to(torch.complex64)


def fine_tiles(n=2):
    """(n, 4, side, side//2+1) coefficients of random tiles, without what no detector pixel passes."""
    grid = grid_of()
    aliases = aliases_of(images(n, 2 * SIDE, 2 * SIDE))
    aliases[grid.power[:, None].expand_as(aliases) < 1e-9] = 0
    return aliases


def test_aliases_and_image_undo_each_other():
    tiles = images(3, 2 * SIDE, 2 * SIDE)
    with unchanged(tiles):
        torch.testing.assert_close(grid_of().image(aliases_of(tiles)), tiles, rtol=0, atol=1e-5)


def test_each_coarse_frequency_is_the_sum_of_its_aliases():
    tiles = images(2, 2 * SIDE, 2 * SIDE)
    torch.testing.assert_close(aliases_of(tiles).sum(0), torch.fft.rfft2(tiles[:, ::2, ::2]), rtol=1e-4, atol=1e-4)


def test_one_alias_of_four_lies_below_nyquist():
    below = grid_of().is_below
    assert (below.sum(0) == 1).all()
    assert float(grid_of().radius[below].max()) <= math.sqrt(0.5) + 1e-6


def test_the_box_is_the_mean_of_two_fine_pixels():
    line = torch.randn(16, generator=torch.Generator().manual_seed(0))
    frequency = torch.fft.fftfreq(16) * 2.0
    averaged = torch.fft.ifft(torch.fft.fft(line) * box_of(frequency)).real
    torch.testing.assert_close(averaged, (line + line.roll(-1)) / 2)


@pytest.mark.parametrize("dose_per_frame", [None, 1.5])
def test_the_table_gives_the_sum_over_frames(dose_per_frame):
    """K X, written out."""
    exposures = dose.frame_exposures(24, dose_per_frame)
    equations = NormalEquations(grid_of(weighted=dose_per_frame is not None), FRACTIONS, exposures)
    x = fine_tiles()
    found = equations.apply(x).numpy()
    for tile in range(2):
        a = seen(FRACTIONS[:, tile], exposures)
        predicted = (a * x[:, tile].numpy()).sum(1, keepdims=True)
        expected = (a.conj() * predicted).sum(0)
        np.testing.assert_allclose(found[:, tile], expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("dose_per_frame", [None, 0.15])
def test_the_solver_gives_back_what_the_frames_were_made_from(dose_per_frame):
    exposures, x = dose.frame_exposures(24, dose_per_frame), fine_tiles()
    grid = grid_of(weighted=dose_per_frame is not None)
    b = torch.zeros_like(x)
    y, columns = frequencies()
    for tile in range(2):
        frames = (seen(FRACTIONS[:, tile], exposures) * x[:, tile].numpy()).sum(1)
        for (sy, sx), n, frame in zip(FRACTIONS[:, tile].numpy(), exposures.numpy(), frames, strict=True):
            turned = np.exp(-float(n) * decay() - 2j * math.pi * (y * sy + columns * sx)) * frame
            b[:, tile] += torch.from_numpy(turned).to(torch.complex64)
    prior = torch.full_like(grid.radius, 1e-5)
    with unchanged(b, prior):
        solved = NormalEquations(grid, FRACTIONS, exposures).solve(b, prior)
    well = grid.power > 1e-2
    assert float((solved - x)[well[:, None].expand_as(x)].abs().max()) < 0.02 * float(x.abs().mean())


def test_the_solution_leaves_what_the_prior_asks_for():
    """(K + σ²/P) X = B, so B − K X is the prior times X."""
    equations = NormalEquations(grid_of(), FRACTIONS, dose.frame_exposures(24, 1.0))
    b = fine_tiles() * 5.0
    prior = 0.1 + torch.rand_like(grid_of().radius)
    solved = equations.solve(b, prior)
    left = equations.residual(b, solved)
    torch.testing.assert_close(left, solved * prior[:, None], rtol=1e-3, atol=1e-3)


def test_frames_at_one_position_do_not_break_the_solver():
    same = torch.full((24, 2, 2), 0.3, dtype=torch.float64)
    equations = NormalEquations(grid_of(weighted=False), same, torch.zeros(24, dtype=torch.float64))
    solved = equations.solve(fine_tiles(), torch.full_like(grid_of().radius, 1e-3))
    assert torch.isfinite(torch.view_as_real(solved)).all()


def test_a_strong_prior_leaves_nothing():
    equations = NormalEquations(grid_of(), FRACTIONS, dose.frame_exposures(24, 1.0))
    weak, strong = (equations.solve(fine_tiles(), torch.full_like(grid_of().radius, p)).abs().sum() for p in (1.0, 1e9))
    assert float(strong) < 1e-6 * float(weak)


def test_a_blurring_detector_is_made_up_for():
    blurred = grid_of(blur=lambda f: torch.exp(-(f**2)))
    torch.testing.assert_close(blurred.power, grid_of().power * torch.exp(-2.0 * grid_of().radius ** 2))
