"""Movies and nets with known answers for the tests of the networks."""

import torch
from torch import nn

from models.manifest import DENOISERS, Manifest
from models.networks.denoiser import WienerResidualNet
from models.training.movie import TrainingMovie
from models.versions.checkpoint import save_version
from streamer import fourier
from streamer.records import GroupSums
from tests.simulated_movies import images

WEIGHT = [(0.01, 1.0), (0.05, 0.5), (0.1, 0.25), (1 / 6, 0.0)]


def manifest(**changes):
    """Manifest of a version that learned at 2 Å/px."""
    known = {"version": "v0001", "net": DENOISERS["small"], "resolution": 6.0, "low": 100.0, "pixel_size": 2.0}
    return Manifest(**known | {"sha256": "", "software": "test", "seed": 0, "steps": 1, "weight": WEIGHT} | changes)


def blobs(shape, seed):
    """Smooth bumps here and there: a signal that a Wiener filter cannot describe."""
    places = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.004
    spread = torch.exp(-((fourier.radius(shape) / 0.2) ** 2))
    image = fourier.to_image(torch.fft.rfft2(places.float()) * spread, shape)
    return (image - image.mean()) / image.std()


def synthetic(movie_id, seed, *, strength=0.5, n=10, shape=(192, 192), device="cpu"):
    """A movie of n unweighted groups of noise 1 with blobs, and the blobs."""
    signal = strength * blobs(shape, seed)
    groups = signal + images(n, *shape, seed=1000 + seed)
    sums = GroupSums(groups=groups.half(), exposures=((0.0,),) * n, shape=shape, pixel_size=3.0, voltage_kv=300.0)
    return TrainingMovie(movie_id, sums, 100.0, device), signal


class Stand(nn.Module):
    """A net whose correction of W·M is given: (b, 1, h, w) from (b, 2, h, w)."""

    multiple, halo = 8, 32

    def __init__(self, correction):
        super().__init__()
        self.correction = correction
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return inputs[:, 1:2] + self.correction(inputs)


def knows(movies_and_signals):
    """A stand-in that recognises a synthetic movie and answers with its signal, on the scale of the input."""
    truths = []
    for movie, signal in movies_and_signals:
        white = fourier.to_image(torch.fft.rfft2(signal) * movie.whitening * movie.window, movie.band.small)
        truths.append(nn.functional.pad(white[None, None], (32, 32, 32, 32), mode="reflect"))

    def correction(inputs):
        scales = [(inputs[:, :1] * t).sum() / t.square().sum() for t in truths]
        likeness = [s * t.norm() for s, t in zip(scales, truths, strict=True)]
        best = max(range(len(truths)), key=lambda i: float(likeness[i]))
        return scales[best] * truths[best] - inputs[:, 1:2]

    return Stand(correction)


def stored_version(directory, of):
    """Store a version without figures: a stand-in's are none."""
    known = {name: getattr(of, name) for name in of.__struct_fields__}
    return save_version(directory, WienerResidualNet(DENOISERS["small"]), manifest(**known | {"figures": None}))
