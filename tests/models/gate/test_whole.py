"""What is said of the picture that is shown: close to the truth, or nothing."""

from types import SimpleNamespace

import pytest
import torch

from models.gate.guard import Evidence
from models.gate.whole import Shown, gain_of_whole, nudge_of
from streamer import fourier
from streamer.quality import estimators
from tests.simulated_movies import images

SHAPE = (512, 512)
NOTHING_BEYOND = SimpleNamespace(
    fftfreq=torch.zeros(1), ssnr_full=torch.zeros(1), wiener=torch.zeros(1), counts=torch.zeros(1)
)


def picture(strength, better, seed=0, field=1.0):
    """Halves and their sum; what is served holds ``better`` times less of the filtered noise's power."""
    blur = torch.exp(-((fourier.radius(SHAPE) / 0.08) ** 2))
    signal = strength * fourier.to_image(torch.fft.rfft2(images(*SHAPE, seed=seed)) * blur, SHAPE) * field
    even, odd = (torch.fft.rfft2(signal + images(*SHAPE, seed=100 + 2 * seed + i)) for i in (0, 1))
    raw = (even + odd) / 2.0**0.5
    there = 2.0**0.5 * torch.fft.rfft2(signal) * blur
    served = there + (raw * blur - there) * better**-0.5
    moved = nudge_of(SHAPE, "cpu") * blur
    halves = Evidence(
        raw=(even, odd), linear=(even, odd), served=(even, odd), shape=SHAPE, band_pixel_size=3.0, low=100.0
    )
    shown = Shown(
        raw=raw,
        linear=raw * blur,
        served=served,
        moved_linear=moved,
        moved_served=moved * better**-0.5,
        even_share=0.5,
    )
    return halves, shown, 2.0**0.5 * torch.fft.rfft2(signal)


def true_gain(shown, truth):
    mask = estimators.band_mask(SHAPE, 3.0, 100.0, 6.0)
    there, snbr = estimators.tapered(truth, SHAPE), []
    for one in (shown.served, shown.linear):
        image = estimators.tapered(one, SHAPE)
        cross, own, true = (
            float(estimators.covariance(a, b, SHAPE)[mask].sum())
            for a, b in ((image, there), (image, image), (there, there))
        )
        snbr.append(cross**2 / (own * true - cross**2))
    return snbr[0] / snbr[1]


@pytest.mark.parametrize("better", [0.7, 1.0, 1.5])
def test_the_gain_that_is_said_is_that_of_the_truth(better):
    """In fields as small as these the error itself is known to a half, so that one of four may say nothing."""
    said = []
    for seed in range(4):
        halves, shown, truth = picture(1.5, better, seed)
        found = gain_of_whole(halves, shown, NOTHING_BEYOND, 1.5)
        if found is not None:
            said.append(found)
            assert found == pytest.approx(true_gain(shown, truth), rel=0.12)
    assert len(said) >= 3


def test_a_gain_that_is_not_known_is_not_said():
    """Next to no signal, or all of it in one corner: chance decides, and a number would be untrue."""
    corner = torch.zeros(SHAPE)
    corner[:80, :80] = 1.0
    for strength, field in ((0.15, 1.0), (1.0, corner)):
        for seed in range(3):
            halves, shown, _ = picture(strength, 2.0, seed, field)
            assert gain_of_whole(halves, shown, NOTHING_BEYOND, 1.5) is None
