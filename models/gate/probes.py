"""What a net does where the answer is known: noise, a blank, another movie's signal.

A denoiser that adds something of its own shows it here, whatever it was trained on and however good it looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.networks.denoiser import Denoiser, infer
from streamer import fourier
from streamer.quality import estimators
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.training.movie import TrainingMovie

_MOST_PAIRS = 4


def probes(net: Denoiser, movies: Sequence[TrainingMovie], seed: int = 0) -> dict[str, float]:
    """Probe a net on movies that it never saw.

    Returns
    -------
    ``noise_coherence`` : |cov(D1, D2)|/√(var D1 var D2) of the outputs for two independent noise fields under a movie's
        own Wiener filter; near 0 unless the net adds a pattern of its own.
    ``other_movie_coherence`` : the same for halves of two different movies.
    ``blank_contrast`` : power of the output for pure noise whose halves share nothing (W = 0), over that for a movie.
    ``injected`` : another movie's signal is added to a movie; how much of it comes back, over what the Wiener filter
        returns. At full strength: a good denoiser removes most of a signal half as strong as a movie's own, because it
        drowns in noise, and a low limit there would favour the worse denoiser.
    ``injected_weak`` : the same for a signal half as strong: whether faint signal comes back amplified.
    Coherences are maxima, the others means, over movies or pairs of movies; pairs need movies of the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = [_noise_probe(net, movie, generator) for movie in movies[:_MOST_PAIRS]]
    pairs = [
        _pair_probe(net, one, other)
        for one, other in zip(movies, [*movies[1:], movies[0]], strict=True)
        if one is not other and one.band.small == other.band.small and len(one) == len(other)
    ][:_MOST_PAIRS]
    results = {
        "noise_coherence": max(coherence for coherence, _ in noise),
        "blank_contrast": sum(contrast for _, contrast in noise) / len(noise),
    }
    if pairs:
        results["other_movie_coherence"] = max(coherence for coherence, _, _ in pairs)
        results["injected"] = sum(returned for _, returned, _ in pairs) / len(pairs)
        results["injected_weak"] = sum(weak for _, _, weak in pairs) / len(pairs)
    return results


def cost_per_megapixel(net: Denoiser, movie: TrainingMovie) -> tuple[float, float]:
    """Seconds, the faster of two runs, and GiB of GPU memory per megapixel of the band."""
    everything, device = torch.ones(len(movie), dtype=torch.bool), movie.spectra.device
    megapixels, on_gpu = movie.band.small[0] * movie.band.small[1] / 1e6, device.type == "cuda"
    raw, linear, _ = movie.inputs(everything)
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(2):
        began = SYSTEM.monotonic()
        infer(net, raw, linear)
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(SYSTEM.monotonic() - began)
    gib = (torch.cuda.max_memory_allocated(device) - before) / 2**30 if on_gpu else 0.0
    return min(seconds) / megapixels, gib / megapixels


def _apply(net: Denoiser, movie: TrainingMovie, spectrum: Tensor, wiener: Tensor | float) -> Tensor:
    """Output image of the net for a whitened spectrum under a Wiener filter."""
    raw, linear = fourier.to_image(torch.stack([spectrum, spectrum * wiener]) * movie.window, movie.band.small)
    return infer(net, raw, linear)


def _noise_probe(net: Denoiser, movie: TrainingMovie, generator: torch.Generator) -> tuple[float, float]:
    """Coherence of two outputs for noise, and contrast of a blank."""
    everything = torch.ones(len(movie), dtype=torch.bool)
    micrograph, wiener, _ = movie.part(everything)
    fields = torch.randn((3, *movie.band.small), generator=generator).to(movie.spectra.device)
    one, two, blank = torch.fft.rfft2(fields)
    served = _apply(net, movie, micrograph, wiener)
    coherence = _coherence(_apply(net, movie, one, wiener), _apply(net, movie, two, wiener))
    contrast = float(_apply(net, movie, blank, 0.0).var() / served.var().clamp(min=1e-30))
    return coherence, contrast


def _pair_probe(net: Denoiser, movie: TrainingMovie, other: TrainingMovie) -> tuple[float, float, float]:
    """Coherence of halves of two movies, and how much of the other's signal comes back at full and at half strength."""
    everything = torch.ones(len(movie), dtype=torch.bool)
    even = torch.zeros(len(movie), dtype=torch.bool)
    even[0::2] = True
    (half, half_wiener, _), (other_half, other_half_wiener, _) = movie.part(even), other.part(even)
    coherence = _coherence(_apply(net, movie, half, half_wiener), _apply(net, other, other_half, other_half_wiener))
    micrograph, wiener, _ = movie.part(everything)
    theirs, their_wiener, _ = other.part(everything)
    alone = _apply(net, movie, micrograph, wiener)

    def returned(strength: float) -> float:
        added = theirs * their_wiener * strength
        changed = torch.fft.rfft2(_apply(net, movie, micrograph + added, wiener) - alone)
        expected = added * wiener * movie.window
        back = estimators.covariance(expected, changed, movie.band.small).sum()
        return float(back / estimators.covariance(expected, expected, movie.band.small).sum())

    return coherence, returned(1.0), returned(0.5)


def _coherence(a: Tensor, b: Tensor) -> float:
    """Absolute correlation of two images, means removed."""
    a, b = a - a.mean(), b - b.mean()
    return abs(float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp(min=1e-30)))
