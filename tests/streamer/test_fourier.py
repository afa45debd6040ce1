import math

import numpy as np
import pytest
import torch

from streamer import fourier
from tests.simulated_movies import full_ring_sums, full_rings, images, unchanged

SHAPES = [(8, 8), (8, 7), (7, 8), (9, 9), (12, 31), (33, 10), (16, 40)]


def wave(shape, cycles_y, cycles_x, phase=0.3):
    """A cosine with whole numbers of cycles along both axes."""
    rows, columns = (torch.arange(n, dtype=torch.float64) / n for n in shape)
    angle = 2 * math.pi * (cycles_y * rows[:, None] + cycles_x * columns[None, :]) + phase
    return torch.cos(angle).float()


# --------------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("shape", SHAPES)
def test_frequencies_are_those_of_the_full_plane_in_cycles_per_px(shape):
    rows, columns = fourier.fftfreq_axes(shape)
    np.testing.assert_allclose(rows[:, 0], np.fft.fftfreq(shape[0]), atol=1e-7)
    np.testing.assert_allclose(columns[0], np.fft.rfftfreq(shape[1]), atol=1e-7)
    np.testing.assert_allclose(
        fourier.radius(shape), np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])), atol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_weighted_half_plane_holds_the_power_of_the_image(shape):
    image = images(*shape)
    power = torch.fft.rfft2(image).abs().double() ** 2
    total = (power * fourier.hermitian_weights(shape[1])).sum() / (shape[0] * shape[1])
    assert float(total) == pytest.approx(float(image.double().square().sum()), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_rings_are_those_of_the_full_plane(shape):
    expected = full_rings(shape)[:, : shape[1] // 2 + 1].clip(max=fourier.ring_count(shape))
    np.testing.assert_array_equal(fourier.ring_index(shape), expected)
    assert fourier.ring_count(shape) == min(shape) // 2 + 1
    np.testing.assert_allclose(fourier.ring_frequencies(shape), np.arange(min(shape) // 2 + 1) / min(shape))


# ------------------------------------------------------------------------------------------------------ ring sums


@pytest.mark.parametrize("shape", SHAPES)
def test_ring_sums_equal_those_over_the_full_plane(shape):
    image = images(*shape)
    power = torch.fft.rfft2(image).abs() ** 2
    with unchanged(power):
        found = fourier.ring_sums(power, shape)
    np.testing.assert_allclose(found, full_ring_sums(np.abs(np.fft.fft2(image.double().numpy())) ** 2), rtol=1e-5)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("shape", SHAPES)
def test_ring_sums_do_not_change_when_the_image_is_transposed(shape):
    image = images(*shape)
    upright, lying = (fourier.ring_sums(torch.fft.rfft2(i).abs() ** 2, tuple(i.shape)) for i in (image, image.T))
    torch.testing.assert_close(upright, lying, rtol=1e-5, atol=1e-5)


def test_ring_sums_of_a_batch_are_those_of_its_members():
    power = torch.fft.rfft2(images(3, 2, 9, 10)).abs() ** 2
    together = fourier.ring_sums(power, (9, 10))
    assert together.shape == (3, 2, 5)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(together[i, j], fourier.ring_sums(power[i, j], (9, 10)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_coefficient_and_its_conjugate_count_once(shape):
    every = full_ring_sums(np.ones(shape))
    np.testing.assert_allclose(fourier.coefficient_counts(shape), every / 2)


def test_nan_stays_in_its_ring():
    power = torch.ones(8, 5)
    power[0, 3] = torch.nan
    sums = fourier.ring_sums(power, (8, 8))
    assert torch.isnan(sums[3])
    assert torch.isfinite(sums[[0, 1, 2, 4]]).all()


# --------------------------------------------------------------------------------------------------- radial curves


@pytest.mark.parametrize("shape", SHAPES)
def test_a_straight_curve_becomes_the_distance_from_the_origin(shape):
    curve = torch.arange(fourier.ring_count(shape), dtype=torch.float64)
    with unchanged(curve):
        plane = fourier.from_rings(curve, shape)
    expected = (fourier.radius(shape) * min(shape)).clamp(max=float(curve[-1]))
    torch.testing.assert_close(plane, expected, rtol=1e-5, atol=1e-5)


def test_a_curve_keeps_its_last_value_in_the_corners():
    plane = fourier.from_rings(torch.tensor([1.0, 1.0, 1.0, 1.0, 7.0]), (8, 8))
    assert plane[4, 4] == 7.0
    assert plane[0, 0] == 1.0


@pytest.mark.parametrize("shape", [(16, 16), (15, 16), (16, 15)])
def test_a_curve_on_the_axis_is_read_at_its_rings(shape):
    curve = torch.rand(fourier.ring_count(shape), generator=torch.Generator().manual_seed(1))
    side = min(shape)
    along = (
        fourier.from_rings(curve, shape)[0, :] if shape[1] == side else fourier.from_rings(curve, shape)[: side // 2, 0]
    )
    torch.testing.assert_close(along[: side // 2], curve[: side // 2], rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- shifts


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("y", "x"), [(1, 0), (0, 1), (-2, 3), (0, 0)])
def test_a_shift_by_whole_px_moves_content_to_larger_indices(shape, y, x):
    image, shift = images(*shape), torch.tensor([float(y), float(x)])
    with unchanged(shift):
        moved = fourier.to_image(torch.fft.rfft2(image) * fourier.shift_ramp(shape, shift), shape)
    torch.testing.assert_close(moved, image.roll((y, x), (0, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shift_by_part_of_a_px_turns_a_wave_by_its_phase(shape):
    image = wave(shape, 2, -1)
    moved = fourier.to_image(torch.fft.rfft2(image) * fourier.shift_ramp(shape, torch.tensor([0.4, -1.3])), shape)
    phase = 0.3 - 2 * math.pi * (2 * 0.4 / shape[0] + 1.3 / shape[1])
    torch.testing.assert_close(moved, wave(shape, 2, -1, phase), rtol=0, atol=1e-5)


def test_shifts_add_up():
    first, second = torch.tensor([0.3, -2.4]), torch.tensor([5.5, 0.1])
    both = fourier.shift_ramp((9, 14), first) * fourier.shift_ramp((9, 14), second)
    torch.testing.assert_close(both, fourier.shift_ramp((9, 14), first + second), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------- crops and pads


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("new", [(6, 6), (5, 7), (7, 6), (40, 41), (41, 50)])
def test_a_wave_below_both_nyquists_keeps_its_value_on_any_grid(shape, new):
    image = 3.0 + wave(shape, 2, 1)
    spectrum = torch.fft.rfft2(image)
    with unchanged(spectrum):
        resized = fourier.to_image(fourier.resize(spectrum, shape, new), new)
    torch.testing.assert_close(resized, 3.0 + wave(new, 2, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_and_cropping_back_loses_only_the_nyquist_lines(shape):
    spectrum = torch.fft.rfft2(images(*shape))
    larger = (shape[0] + 5, shape[1] + 4)
    back = fourier.resize(fourier.resize(spectrum, shape, larger), larger, shape)
    expected = spectrum.clone()
    if shape[0] % 2 == 0:
        expected[shape[0] // 2] = 0
    if shape[1] % 2 == 0:
        expected[:, -1] = 0
    torch.testing.assert_close(back, expected, rtol=1e-5, atol=1e-5)


def test_a_padded_image_is_real_and_keeps_its_mean():
    shape, new = (8, 9), (13, 20)
    image = 5.0 + images(*shape)
    padded = fourier.resize(torch.fft.rfft2(image), shape, new)
    back = torch.fft.rfft2(fourier.to_image(padded, new))
    torch.testing.assert_close(back, padded, rtol=0, atol=1e-3)
    assert float(fourier.to_image(padded, new).mean()) == pytest.approx(float(image.mean()), abs=1e-5)


def test_crops_of_a_batch_are_those_of_its_members():
    spectra = torch.fft.rfft2(images(4, 12, 15))
    together = fourier.resize(spectra, (12, 15), (6, 8))
    for one, alone in zip(together, spectra, strict=True):
        torch.testing.assert_close(one, fourier.resize(alone, (12, 15), (6, 8)))


@pytest.mark.parametrize("shape", [(8, 7), (7, 7), (9, 10)])
def test_there_and_back_keeps_odd_sizes(shape):
    image = images(*shape)
    back = fourier.to_image(torch.fft.rfft2(image), shape)
    assert back.shape == shape
    torch.testing.assert_close(back, image, rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- window


@pytest.mark.parametrize("shape", [(40, 60), (41, 33)])
def test_the_taper_is_symmetric_one_inside_and_nearly_zero_at_the_edge(shape):
    taper = fourier.cosine_taper(shape, border=0.1)
    torch.testing.assert_close(taper, taper.flip(0))
    torch.testing.assert_close(taper, taper.flip(1))
    margins = [round(0.1 * n) for n in shape]
    inside = taper[margins[0] : -margins[0], margins[1] : -margins[1]]
    assert bool((inside == 1.0).all())
    # half a px from the edge: (1 − cos(π/(2 margin)))/2
    assert float(taper[0, shape[1] // 2]) == pytest.approx(0.5 - 0.5 * math.cos(math.pi / (2 * margins[0])), abs=1e-6)
