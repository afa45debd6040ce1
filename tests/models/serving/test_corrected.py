"""What a network changes in a part of a movie: at the field's edges, and within bounds."""

import pytest
import torch

from models.networks.denoiser import largest_within
from models.serving.corrected import correct
from streamer import fourier
from streamer.band import band_of
from streamer.quality import estimators
from tests.simulated_movies import half_sums, images

SHAPE = (256, 240)
EVERYWHERE = [(0.0, 1.0), (1.0, 1.0)]


class Says(torch.nn.Module):
    """A net whose answer is a function of M and W·M, and which remembers what it saw."""

    multiple, halo = 8, 32

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, None
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        self.seen = inputs[0].clone()
        return self.answer(inputs)


def corrected(answer, edge=0.0):
    """A field of noise and coarse signal, with a bright strip along its right side, in the band of 6 Å."""
    falling = torch.exp(-((fourier.radius(SHAPE) / 0.12) ** 2))
    picture = 20.0 + 3.0 * fourier.to_image(torch.fft.rfft2(images(*SHAPE, seed=9)) * falling, SHAPE)
    picture = picture + edge * (torch.arange(SHAPE[1]) >= SHAPE[1] - 24)
    halves = [0.5 * picture + 0.5**0.5 * images(*SHAPE, seed=seed) for seed in (1, 2)]
    sums = half_sums(*halves, 2.0, 0.5)
    spectrum, band = estimators.measure(sums), band_of(SHAPE, 2.0, 6.0, 100.0)
    net = Says(answer)
    found = correct(net, EVERYWHERE, sums.total, torch.ones_like(spectrum.ssnr_full), spectrum, band, None)
    return net, found


def alike(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_the_network_sees_the_field_with_mirrored_surroundings():
    """40 px on each side, mirrored about the outermost px and not wrapped round."""
    net, found = corrected(lambda x: x[:, 1:2])
    height, width = found.band.small
    assert net.seen.shape == (2, height + 80, width + 80)
    seen = net.seen[1]
    near, far = 44, 64
    for image, size in ((seen, height), (seen.T, width)):
        before, after = image[80 - far + 1 : 80 - near + 1], image[size + near - 1 : size + far - 1]
        assert alike(before.flip(0), image[near:far]) > 0.9
        assert alike(after.flip(0), image[size + 80 - far : size + 80 - near]) > 0.9
        # the other end's, as it would be on a grid that wraps round
        assert abs(alike(before, image[size + 80 - far : size + 80 - near])) < 0.3


def test_an_edge_on_one_side_does_nothing_on_the_other():
    """Filtered on the field itself, a bright strip on the right comes in on the left, beyond where changes fade."""
    net, found = corrected(lambda x: x[:, 1:2], edge=60.0)
    seen = net.seen[1][40:-40, 40:-40]
    wrapped = fourier.to_image(found.linear * found.band.window(), found.band.small)
    # means of 4 px: what is left is the ringing of the crop to the band, at its Nyquist frequency
    of_seen, of_wrapped = (torch.nn.functional.avg_pool1d(one.mean(0)[None], 4)[0, 2:12] for one in (seen, wrapped))
    assert float(of_seen.abs().max()) < 0.15 * float(of_wrapped.abs().max())


def test_a_change_fades_over_eight_px_at_the_fields_edges():
    """It is brought back on a grid that wraps round, so that it must begin and end with nothing."""
    _, found = corrected(lambda x: x[:, 1:2] + 0.5 * x[:, 1:2])
    size = found.change.abs()
    inner = float(size[16:-16, 16:-16].mean())
    for rim in (size[0], size[-1], size[:, 0], size[:, -1]):
        assert float(rim.mean()) < 0.05 * inner
    assert float(size[4, 16:-16].mean()) < 0.9 * inner
    # from there on all of it is there
    height = found.band.small[0]
    assert float(size[8:24, 16:-16].mean()) == pytest.approx(inner, rel=0.35)
    assert float(size[height - 24 : height - 8, 16:-16].mean()) == pytest.approx(inner, rel=0.35)


@pytest.mark.parametrize("shape", [(40, 33), (7, 70), (1, 5)])
@pytest.mark.parametrize("reach", [1, 2, 16, 21])
def test_the_largest_nearby_is_that_of_each_window(shape, reach):
    values = images(*shape, seed=3).abs()
    found = largest_within(values, reach)
    rows, columns = shape
    for y in range(0, rows, 3):
        for x in range(0, columns, 4):
            window = values[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            assert float(found[y, x]) == float(window.max())
    assert found.shape == values.shape
