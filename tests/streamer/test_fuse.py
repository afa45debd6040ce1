import math

import numpy as np
import pytest
import torch

from streamer import dose, fourier, fuse
from tests.simulated_movies import images, unchanged

SIZES = [(8, 10), (7, 9), (8, 9)]
SHIFTS = torch.tensor(np.random.default_rng(7).uniform(-2.4, 2.4, (24, 2)))
"""Every kind of sub-pixel position, and whole pixels."""
PIXEL_SIZE, VOLTAGE_KV = 1.3, 300.0


def exposures_of(n, dose_per_frame=1.5):
    return dose.frame_exposures(n, dose_per_frame)


def fused(frames, shifts, upsampling, exposures=None, **options):
    return fuse.fuse(
        lambda index: frames[index],
        shifts,
        torch.zeros(len(frames), dtype=torch.float64) if exposures is None else exposures,
        pixel_size=PIXEL_SIZE,
        voltage_kv=VOLTAGE_KV,
        upsampling=upsampling,
        **options,
    )


def full_frequencies(shape):
    return np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]


def fine_image(size):
    """A random image (2h, 2w) on half the pixel size, without the Nyquist lines that no detector pixel passes."""
    spectrum = np.fft.fft2(np.random.default_rng(1).normal(size=(2 * size[0], 2 * size[1])))
    spectrum[size[0]] = spectrum[:, size[1]] = 0.0
    return np.fft.ifft2(spectrum).real


def decay(size):
    """z on the full fine plane, in Å²/e⁻, float64."""
    radius = np.hypot(*full_frequencies((2 * size[0], 2 * size[1]))) * 2 / PIXEL_SIZE
    with np.errstate(divide="ignore"):
        critical = 0.245 * radius**-1.665 + 2.81
    return 0.5 / critical


def photographed(image, shifts, exposures, noise=0.0):
    """Frames (t, h, w) of a fine image: damaged, moved by −s, averaged over 2×2 fine pixels, one sample each."""
    rng, size = np.random.default_rng(2), (image.shape[0] // 2, image.shape[1] // 2)
    rows, columns = full_frequencies(image.shape)
    frames = []
    for (y, x), exposure in zip(shifts.numpy(), exposures.numpy(), strict=True):
        spectrum = np.fft.fft2(image) * np.exp(-exposure * decay(size))
        moved = np.fft.ifft2(spectrum * np.exp(2j * math.pi * (rows * 2 * y + columns * 2 * x))).real
        pixels = moved.reshape(size[0], 2, size[1], 2).mean((1, 3))
        frames.append(torch.from_numpy(pixels + noise * rng.normal(size=size)).float())
    return torch.stack(frames)


# ------------------------------------------------------------------------------------------------- the fine image


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dose_per_frame", [None, 0.15])
def test_the_solver_gives_back_the_fine_image_that_was_photographed(size, dose_per_frame):
    """Without noise and with next to no prior the four aliases of each coarse frequency are told apart exactly."""
    image, exposures = fine_image(size), dose.frame_exposures(24, dose_per_frame)
    # the camera damages by the same law with which the frames are weighted; whole pixels would push content out of
    # the periodic field, so only their fractions are used here
    shifts = SHIFTS - SHIFTS.round()
    sums = fused(photographed(image, shifts, exposures), shifts, 2, exposures)
    solver = fuse.FineSolver(sums, slice(None), pixel_size=PIXEL_SIZE, voltage_kv=VOLTAGE_KV)
    fine = (2 * size[0], 2 * size[1])
    prior = torch.full((fine[0], fine[1] // 2 + 1), 1e-5)
    with unchanged(sums.even, sums.odd, prior):
        solved = fourier.to_image(solver.solve(sums.even + sums.odd, prior), fine) * 4.0
    assert np.abs(solved.numpy() - image).max() < 0.02 * image.std()


@pytest.mark.parametrize("size", SIZES)
def test_a_wrong_track_does_not_give_the_image_back(size):
    image, exposures = fine_image(size), torch.zeros(24, dtype=torch.float64)
    shifts = SHIFTS - SHIFTS.round()
    frames = photographed(image, shifts, exposures)
    sums = fused(frames, shifts.flip(0), 2, exposures)
    solver = fuse.FineSolver(sums, slice(None), pixel_size=PIXEL_SIZE, voltage_kv=VOLTAGE_KV)
    fine = (2 * size[0], 2 * size[1])
    solved = fourier.to_image(solver.solve(sums.even + sums.odd, torch.ones(fine[0], fine[1] // 2 + 1)), fine)
    assert np.corrcoef(solved.flatten(), image.flatten())[0, 1] < 0.8


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frames", [slice(None), slice(0, None, 2), slice(1, None, 2)])
def test_the_matrix_from_the_table_is_the_sum_over_frames(size, frames):
    """K_ab = Σ_t conj(A_t(F_a)) A_t(F_b) with A_t(F) = w_t(F) h(F) exp(2πi F·s_t), written out in float64."""
    exposures, fractions = exposures_of(24), SHIFTS - SHIFTS.round()
    sums = fused(images(24, *size), SHIFTS, 2, exposures)
    solver = fuse.FineSolver(sums, frames, pixel_size=PIXEL_SIZE, voltage_kv=VOLTAGE_KV)
    height, width = size
    columns = width // 2 + 1
    found = solver._matrix(slice(0, height), torch.zeros(height, columns, 4)).numpy()
    rows_of = np.arange(height)[:, None] + height * np.array([0, 1, 0, 1])
    columns_of = np.arange(columns)[:, None] + width * np.array([0, 0, 1, 1])
    y = np.fft.fftfreq(2 * height)[rows_of % (2 * height)][:, None, :]
    # a column and the one a whole cycle per coarse px below it: c and c − w, which fftfreq holds at c + w
    x = np.fft.fftfreq(2 * width)[columns_of % (2 * width)][None, :, :]
    z = decay(size)[rows_of[:, None, :] % (2 * height), columns_of[None, :, :] % (2 * width)]
    box = (1 + np.exp(2j * math.pi * y)) / 2 * (1 + np.exp(2j * math.pi * x)) / 2
    expected = np.zeros((height, columns, 4, 4), dtype=complex)
    for (dy, dx), exposure in zip(fractions[frames].numpy(), exposures[frames].numpy(), strict=True):
        a = np.exp(-exposure * z) * box * np.exp(2j * math.pi * (y * 2 * dy + x * 2 * dx))
        expected += a[..., :, None].conj() * a[..., None, :]
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_rows_may_be_solved_in_any_portions():
    size = (9, 8)
    sums = fused(images(24, *size), SHIFTS, 2)
    solver = fuse.FineSolver(sums, slice(None), pixel_size=PIXEL_SIZE, voltage_kv=VOLTAGE_KV)
    prior = torch.full((18, 9), 0.1)
    torch.testing.assert_close(solver.solve(sums.even, prior, rows=2), solver.solve(sums.even, prior))


def test_a_strong_prior_leaves_nothing():
    sums = fused(images(24, 8, 8), SHIFTS, 2)
    solver = fuse.FineSolver(sums, slice(None), pixel_size=PIXEL_SIZE, voltage_kv=VOLTAGE_KV)
    weak, strong = (solver.solve(sums.even, torch.full((16, 9), p)).abs().sum() for p in (1.0, 1e9))
    assert float(strong) < 1e-6 * float(weak)


@pytest.mark.parametrize("size", SIZES)
def test_the_box_is_the_mean_over_four_fine_pixels(size):
    image = images(2 * size[0], 2 * size[1])
    averaged = fourier.to_image(torch.fft.rfft2(image) * fuse.box_transfer(tuple(image.shape)), tuple(image.shape))
    expected = (image + image.roll(-1, 0) + image.roll(-1, 1) + image.roll((-1, -1), (0, 1))) / 4
    torch.testing.assert_close(averaged, expected, rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------- the physical grid


@pytest.mark.parametrize("size", SIZES)
def test_the_sum_is_the_weighted_sum_of_the_moved_frames(size):
    """Against a plain loop over full planes in float64."""
    frames, exposures, shifts = images(24, *size), exposures_of(24), SHIFTS - SHIFTS.round()
    with unchanged(frames, shifts, exposures):
        sums = fused(frames, shifts, 1, exposures)
    rows, columns = full_frequencies(size)
    rate = 0.5 / (0.245 * (np.hypot(rows, columns) / PIXEL_SIZE).clip(1e-12) ** -1.665 + 2.81)
    expected = np.zeros((2, *size), dtype=complex)
    for t, (y, x) in enumerate(shifts.numpy()):
        ramp = np.exp(-2j * math.pi * (rows * y + columns * x)) * np.exp(-float(exposures[t]) * rate)
        expected[t % 2] += np.fft.fft2(frames[t].double().numpy()) * ramp
    below = slice(0, (size[1] + 1) // 2)  # the Nyquist column of even widths has no sign
    np.testing.assert_allclose(sums.even[:, below], expected[0][:, below], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(sums.odd[:, below], expected[1][:, below], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("exposures", [None, exposures_of(24)])
def test_the_physical_grid_stands_unchanged_in_the_fine_one(size, exposures):
    frames = images(24, *size)
    coarse, fine = (fused(frames, SHIFTS, upsampling, exposures) for upsampling in (1, 2))
    assert fine.even.shape == (2 * size[0], size[1] + 1)
    half = slice(0, (size[1] + 1) // 2)  # the Nyquist column of even widths holds two frequencies in one
    for one, two in ((coarse.even, fine.even), (coarse.odd, fine.odd)):
        top = (size[0] + 1) // 2
        middle = torch.cat([two[:top], two[top - size[0] :]])[:, : size[1] // 2 + 1]
        kept = [row for row in range(size[0]) if 2 * row != size[0]]
        torch.testing.assert_close(middle[kept, half], one[kept, half], rtol=1e-4, atol=1e-3)


def test_frames_that_do_not_move_are_summed():
    frames = images(5, 7, 10)
    sums = fused(frames, torch.zeros(5, 2, dtype=torch.float64), 1)
    torch.testing.assert_close(fourier.to_image(sums.even, (7, 10)), frames[0::2].sum(0))
    torch.testing.assert_close(fourier.to_image(sums.odd, (7, 10)), frames[1::2].sum(0))


def test_whole_px_move_the_frame_without_wrapping_round():
    frame = 3.0 + images(6, 8)
    mean = float(frame.mean())
    sums = fused(frame[None], torch.tensor([[2.0, -3.0]], dtype=torch.float64), 1)
    expected = torch.full((6, 8), mean)
    expected[2:, :5] = frame[:4, 3:]
    torch.testing.assert_close(fourier.to_image(sums.even, (6, 8)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [[6.0, 0.0], [0.0, -8.0], [-100.0, 3.0]])
def test_a_frame_moved_out_of_the_field_leaves_its_mean(shift):
    frame = 3.0 + images(6, 8)
    sums = fused(frame[None], torch.tensor([shift], dtype=torch.float64), 1)
    torch.testing.assert_close(fourier.to_image(sums.even, (6, 8)), torch.full((6, 8), float(frame.mean())))


def test_groups_hold_every_nth_frame():
    frames = images(11, 8, 8)
    sums = fused(frames, torch.zeros(11, 2, dtype=torch.float64), 1, group_shape=(8, 8), n_groups=4)
    for group in range(4):
        expected = torch.fft.rfft2(frames[group::4].sum(0))
        expected[4], expected[:, -1] = 0, 0  # a crop leaves out the Nyquist lines
        torch.testing.assert_close(sums.groups[group], expected, rtol=1e-4, atol=1e-4)
    # every group holds only even or only odd frames
    torch.testing.assert_close(sums.groups[0] + sums.groups[2], fourier.resize(sums.even, (8, 8), (8, 8)))


def test_a_frame_that_is_not_a_number_shows_in_the_sum():
    frames = images(4, 8, 8)
    frames[2, 3, 3] = torch.nan
    sums = fused(frames, torch.zeros(4, 2, dtype=torch.float64), 1)
    assert not torch.isfinite(sums.even).any()
    assert torch.isfinite(sums.odd).all()


# ---------------------------------------------------------------------------------------------------- diversity


@pytest.mark.parametrize(
    "shifts",
    [torch.zeros(9, 2), torch.arange(18.0).reshape(9, 2), torch.full((9, 2), 0.37), torch.tensor([[0.3, -5.2]])],
)
def test_one_sub_pixel_position_tells_nothing_apart(shifts):
    assert fuse.diversity(shifts) == pytest.approx(0.0, abs=1e-6)


def test_positions_on_a_grid_of_half_pixels_tell_everything_apart():
    half = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.5, 0.0], [0.5, 0.5]])
    assert fuse.diversity(half) == pytest.approx(1.0)
    assert fuse.diversity(half + torch.tensor([3.2, -0.7])) == pytest.approx(1.0)


@pytest.mark.parametrize("direction", [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (1.0, -1.0)])
def test_drift_along_a_line_leaves_one_pair_of_aliases_together(direction):
    """Evenly spread along x, y or a diagonal, but all at one position across it."""
    shifts = torch.arange(10.0)[:, None] / 10.0 * torch.tensor(direction)
    assert fuse.diversity(shifts) == pytest.approx(0.0, abs=1e-6)


def test_late_frames_do_not_count_as_diversity():
    """The first frames stand still, the last are spread: after 40 e⁻/Å² they hold nothing beyond Nyquist."""
    shifts = torch.zeros(40, 2)
    shifts[20:] = torch.rand((20, 2), generator=torch.Generator().manual_seed(0))
    assert fuse.diversity(shifts) > 0.3
    assert fuse.diversity(shifts, exposures_of(40, 2.0)) < 0.01
