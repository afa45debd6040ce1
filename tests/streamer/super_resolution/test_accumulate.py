import math

import numpy as np
import pytest
import torch

from streamer import dose
from streamer.errors import StageError
from streamer.motion.field import ORDERS, shifts_at
from streamer.motion.track import LocalMotion, Motion
from streamer.super_resolution import accumulate
from streamer.super_resolution.normal_equations import ALIASES
from tests.simulated_movies import images, unchanged

N = 10
SHIFTS = torch.from_numpy(np.random.default_rng(3).uniform(-2.4, 2.4, (N, 2)))
STILL = torch.zeros(N, dtype=torch.float64)


def motion_of(shifts=SHIFTS, local_motion=None):
    return Motion(shifts=shifts, information=0.0, trusted=True, iterations=0, local=local_motion)


def bend(shape, strength):
    """Linear along x, growing over time."""
    coefficients = torch.zeros((N, 2, len(ORDERS) - 1), dtype=torch.float64)
    coefficients[:, 1, ORDERS.index((0, 1)) - 1] = strength * torch.linspace(0, 1, N)
    return LocalMotion(coefficients=coefficients, shape=shape, evidence=9.0)


def accumulated(frames, motion=None, exposures=STILL, **options):
    return accumulate.accumulate(
        lambda i: frames[i], motion or motion_of(), exposures, pixel_size=1.3, voltage_kv=300.0, **options
    )


@pytest.mark.parametrize("shape", [(60, 81), (31, 200)])
def test_sums_are_those_of_a_loop_over_tiles_frames_and_aliases(shape):
    frames, exposures = images(N, *shape), dose.frame_exposures(N, 1.5)
    with unchanged(frames, SHIFTS, exposures):
        sums = accumulated(frames, exposures=exposures)
    side, expected = sums.tiles.side, np.zeros(tuple(sums.sums.shape), dtype=complex)
    whole = SHIFTS.round()
    offsets = np.array(ALIASES, dtype=float)
    for t in range(N):
        moved = whole[t].to(torch.int64).expand(len(sums.tiles), 2)
        spectra = np.fft.rfft2(sums.tiles.cut(frames[t] - frames[t].mean(), moved).double().numpy())
        y, x = (SHIFTS - whole)[t].tolist()
        for a, (dy, dx) in enumerate(offsets):
            rows, columns = np.arange(side)[:, None] / side - dy, np.arange(side // 2 + 1)[None] / side - dx
            weight = np.exp(-float(exposures[t]) * sums.grid.rate[a].double().numpy())
            expected[t % 2, a] += weight * np.exp(-2j * math.pi * (rows * y + columns * x)) * spectra
    np.testing.assert_allclose(sums.sums.numpy(), expected, atol=2e-4 * np.abs(expected).max())
    assert sums.mean == pytest.approx(float(frames.mean()), abs=1e-6)


def test_the_control_turns_aliases_by_other_frames_and_leaves_the_rest():
    sums = accumulated(images(N, 70, 70))
    below = sums.grid.is_below
    inner = below.clone()
    inner[:, sums.tiles.side // 2] = inner[:, :, -1] = False  # the Nyquist lines are both
    of_sample = sums.sums[:, :, sums.sample]
    for half in (0, 1):
        at, here = sums.control[half].permute(1, 0, 2, 3), of_sample[half].permute(1, 0, 2, 3)
        torch.testing.assert_close(at[:, inner], here[:, inner], rtol=1e-3, atol=1e-3)
        assert float((at[:, ~below] - here[:, ~below]).abs().mean()) > 0.3 * float(here[:, ~below].abs().mean())
    order = accumulate._other_frames(N)
    assert sorted(order.tolist()) == list(range(N))
    assert (order % 2 == torch.arange(N) % 2).all()


def test_tiles_are_as_small_as_the_bending_asks_for():
    shape = (600, 600)
    sides = [
        accumulate._side_for(motion_of(local_motion=bend(shape, strength)), shape) for strength in (0.0, 0.3, 1.0, 9.0)
    ]
    assert sides[0] == accumulate._side_for(motion_of(), shape) == 256
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] == 64


def test_each_tile_has_the_shift_of_its_place():
    shape = (100, 700)
    field = bend(shape, 0.4)
    sums = accumulated(images(N, *shape), motion_of(local_motion=field))
    shifts = shifts_at(motion_of(local_motion=field), sums.tiles.centres())
    torch.testing.assert_close(sums.fractions, shifts - shifts.round())
    assert float((sums.fractions[-1, 0] - sums.fractions[-1, -1]).abs().max()) > 0.1


@pytest.mark.parametrize("value", [0.0, 7.0, float("nan"), float("inf")])
def test_a_dead_frame_is_left_out(value):
    frames = 3.0 + images(N, 60, 60)
    whole = accumulated(frames)
    broken = frames.clone()
    broken[4] = value
    sums = accumulated(broken)
    kept = [t for t in range(N) if t != 4]
    assert sums.parity.tolist() == [t % 2 for t in kept]
    torch.testing.assert_close(sums.fractions, whole.fractions[kept])
    assert torch.isfinite(torch.view_as_real(sums.sums)).all()
    torch.testing.assert_close(sums.sums[1], whole.sums[1])
    assert sums.mean == pytest.approx(3.0, abs=0.1)


def test_a_movie_of_dead_frames_is_an_error():
    with pytest.raises(StageError, match="no frame contains anything"):
        accumulated(torch.zeros(N, 60, 60))


def test_memory_does_not_grow_with_the_number_of_frames():
    few, many = (
        accumulated(images(2, 60, 60).repeat(n, 1, 1), motion_of(SHIFTS.repeat(n, 1)[: 2 * n]), torch.zeros(2 * n))
        for n in (2, 9)
    )
    assert few.sums.shape == many.sums.shape
    assert few.control.shape == many.control.shape


# ---------------------------------------------------------------------------------------------------- diversity


@pytest.mark.parametrize(
    "shifts",
    [torch.zeros(9, 2), torch.arange(18.0).reshape(9, 2), torch.full((9, 2), 0.37), torch.tensor([[0.3, -5.2]])],
)
def test_one_sub_pixel_position_tells_nothing_apart(shifts):
    assert accumulate.diversity(shifts) == pytest.approx(0.0, abs=1e-6)


def test_positions_on_a_grid_of_half_pixels_tell_everything_apart():
    half = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.5, 0.0], [0.5, 0.5]])
    assert accumulate.diversity(half) == pytest.approx(1.0)
    assert accumulate.diversity(half + torch.tensor([3.2, -0.7])) == pytest.approx(1.0)


@pytest.mark.parametrize("direction", [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (1.0, -1.0)])
def test_drift_along_a_line_leaves_one_pair_of_aliases_together(direction):
    """Evenly spread along x, y or a diagonal, but all at one position across it."""
    shifts = torch.arange(10.0)[:, None] / 10.0 * torch.tensor(direction)
    assert accumulate.diversity(shifts) == pytest.approx(0.0, abs=1e-6)


def test_late_frames_do_not_count_as_diversity():
    """The first frames stand still, the last are spread: after 40 e⁻/Å² they hold nothing beyond Nyquist."""
    shifts = torch.zeros(40, 2)
    shifts[20:] = torch.rand((20, 2), generator=torch.Generator().manual_seed(0))
    assert accumulate.diversity(shifts) > 0.3
    assert accumulate.diversity(shifts, dose.frame_exposures(40, 2.0)) < 0.01
