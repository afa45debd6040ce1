"""Quality of a micrograph: FRC, SSNR and, for any denoiser, how much of its output is signal.

Halves are given as spectra; everything is summed over rings (and pooled over a band) before any ratio is taken. Every
figure says ``_half`` or ``_full``: of one half, or of the sum of both. Estimators with a denoiser D of a half M and
the other half's independent noise (V = cov(M1, M2), c_x = ½[cov(D1, M2) + cov(D2, M1)], c_D = cov(D1, D2), P the
geometric means of the variances):

    γ = c_x/V     N_d = P_D − c_D     B⊥ = c_D − c_x²/V     ρ² = c_x²/(P_D V)     SNBR* = ρ²/(1 − ρ²)
    B_total = B⊥ + (1 − γ)² V     SNR* = γ² V/N_d     SBR* = γ² V/B⊥

Shrinkage sits in γ, not in the bias; any scale cancels; SNBR* is the SNR for an untouched half and 0 for a constant
output. It needs a denoiser that was never trained on these noise draws. Palovcak et al. 2020 define bias and SNBR;
their eq. 18 and 20 are not these: they change with the output's scale and count shrinkage as invention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamer import fourier
from streamer.records import HalfSums, Spectrum

Halves = tuple[Tensor, Tensor]
"""Even, odd."""
_SMOOTHING = 3
"""Rings to each side that share one smoothed estimate."""


def tapered(spectrum: Tensor, shape: fourier.Shape, window: Tensor | None = None) -> Tensor:
    """Spectrum (…, h, w//2+1) of the same images, mean removed and faded at the edges: no leakage between rings.

    Parameters
    ----------
    window : (h, w) how much each place counts, 0 to 1; the mean is that of what counts. None: all alike.
    """
    image = fourier.to_image(spectrum, shape)
    if window is None:
        image = image - image.mean((-2, -1), keepdim=True)
    else:
        image = image - (image * window).sum((-2, -1), keepdim=True) / window.sum()
    faded: Tensor = torch.fft.rfft2(image * _taper(shape, window, image.device))
    return faded


def _taper(shape: fourier.Shape, window: Tensor | None, device: torch.device) -> Tensor:
    taper = fourier.cosine_taper(shape, device=device)
    return taper if window is None else taper * window


def covariance(a: Tensor, b: Tensor, shape: fourier.Shape) -> Tensor:
    """Real part of Σ conj(a) b per ring, (…, rings) float64."""
    return fourier.ring_sums(a.real * b.real + a.imag * b.imag, shape)


def frc(even: Tensor, odd: Tensor, shape: fourier.Shape) -> Tensor:
    """Fourier ring correlation of two (h, w//2+1) spectra, (rings,) float64; 0 where a ring has no power.

    Source: Saxton & Baumeister 1982; van Heel 1987.
    """
    power = covariance(even, even, shape) * covariance(odd, odd, shape)
    return torch.where(power > 0, covariance(even, odd, shape) / power.clamp(min=1e-300).sqrt(), 0.0)


def ssnr_half(correlation: Tensor) -> Tensor:
    """SSNR of one half, FRC/(1 − FRC); negative correlations give 0. Source: Frank & Al-Ali 1975."""
    bounded = correlation.clamp(0.0, 1.0 - 1e-6)
    return bounded / (1.0 - bounded)


def ssnr_full(correlation: Tensor) -> Tensor:
    """SSNR of the sum of both halves, 2 FRC/(1 − FRC)."""
    return 2.0 * ssnr_half(correlation)


def smooth(sums: Tensor, half_width: int = _SMOOTHING) -> Tensor:
    """Running sum over rings, so that ratios of smoothed sums are pooled ratios; shorter at both ends."""
    edge = torch.zeros(half_width, dtype=sums.dtype, device=sums.device)
    return torch.cat([edge, sums, edge]).unfold(0, 2 * half_width + 1, 1).sum(-1)


def measure(sums: HalfSums, window: Tensor | None = None) -> Spectrum:
    """Radial curves of one micrograph from its halves, or of a part of it.

    The SSNR is the smoothed signal over the smoothed noise, shrunk by what chance alone would show: with σ the
    standard deviation of the FRC of pure noise, FRC is multiplied by 1 − (2σ/FRC)², and is 0 below 2σ. Of a part fewer
    coefficients are independent, and σ is larger; its noise is per px of that part.

    Parameters
    ----------
    window : (h, w) how much each place counts, 0 to 1, with soft edges; None: all alike.
    """
    shape = sums.shape
    even, odd = (tapered(half, shape, window) for half in (sums.even, sums.odd))
    common, p_even, p_odd = (covariance(a, b, shape) for a, b in ((even, odd), (even, even), (odd, odd)))
    counts = fourier.coefficient_counts(shape, even.device)
    share = sums.even_share.to(even.device)
    signal = common / (share * (1.0 - share)).clamp(min=1e-6)
    total = p_even + p_odd + 2.0 * common
    smooth_counts = smooth(counts)
    power = smooth(p_even) * smooth(p_odd)
    correlation = smooth(common) / power.clamp(min=1e-300).sqrt()
    # the taper correlates neighbouring coefficients: fewer are independent
    taper = _taper(shape, window, even.device).double()
    independent = float((taper**2).mean() ** 2 / (taper**4).mean())
    chance = 1.0 / (2.0 * smooth_counts * independent).clamp(min=1.0).sqrt()
    kept = (1.0 - (2.0 * chance / correlation.clamp(min=1e-12)) ** 2).clamp(min=0.0)
    noise_sum = smooth(total - signal)
    ratio = (smooth(signal) / noise_sum.clamp(min=1e-300)).clamp(min=0.0) * kept
    ratio = torch.where(noise_sum > 0, ratio, 1e6 * torch.ones_like(ratio)).clamp(max=1e6)
    plain = p_even * p_odd
    size = shape[0] * shape[1]
    return Spectrum(
        fftfreq=fourier.ring_frequencies(shape, even.device),
        counts=counts,
        frc=torch.where(plain > 0, common / plain.clamp(min=1e-300).sqrt(), 0.0),
        noise=noise_sum.clamp(min=0.0) / (2.0 * smooth_counts * size * float((taper**2).mean())).clamp(min=1e-12),
        ssnr_full=ratio,
        significant=bool((correlation[1:] > 6.0 * chance[1:]).any()),
    )


def resolution_at(spectrum: Spectrum, pixel_size: float, threshold: float = 0.143) -> float | None:
    """Finest resolution in Å up to which the smoothed half-set FRC stays above a threshold; None if it never is.

    Thon rings make the FRC of a single micrograph oscillate, so the last crossing counts, over 3 % of the rings.
    """
    width = max(3, round(0.03 * len(spectrum.frc)))
    pooled = smooth(spectrum.frc * spectrum.counts, width) / smooth(spectrum.counts, width)
    above = torch.nonzero(pooled[1:] > threshold)
    if len(above) == 0:
        return None
    return pixel_size / float(spectrum.fftfreq[1 + int(above[-1])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """Figures of a denoiser, per ring or pooled; all (…) float64, at half the exposure."""

    snr: Tensor
    """Of the raw half, V/(P_M − V)."""
    gamma: Tensor
    bias: Tensor
    """B⊥, in units of the raw half's power: what both outputs contain and the specimen does not."""
    bias_total: Tensor
    """B⊥ and the signal that was lost, B⊥ + (1 − γ)² V: changes with the output's scale."""
    noise: Tensor
    """N_d."""
    snbr: Tensor
    """SNBR*."""
    snr_denoised: Tensor
    """SNR*, γ² V/N_d."""
    sbr: Tensor
    """SBR*, γ² V/B⊥; negative where the estimate of B⊥ is."""
    signal: Tensor
    """V."""
    rho2: Tensor
    """ρ²; above 1 only by chance or by a leak."""


def estimate(raw: Halves, denoised: Halves, shape: fourier.Shape) -> Tensor:
    """Ring sums from which ``ratios`` makes figures: add them over micrographs, bands or tiles first.

    Parameters
    ----------
    raw : even and odd (…, h, w//2+1) spectra of the untouched halves, tapered.
    denoised : the same of the outputs, tapered; each made from its own half alone.

    Returns
    -------
    (…, 7, rings) float64: V, var M1, var M2, c_x, c_D, var D1, var D2.
    """
    (even, odd), (denoised_even, denoised_odd) = raw, denoised
    v = covariance(even, odd, shape)
    c_x = 0.5 * (covariance(denoised_even, odd, shape) + covariance(denoised_odd, even, shape))
    return torch.stack(
        [
            v,
            covariance(even, even, shape),
            covariance(odd, odd, shape),
            c_x,
            covariance(denoised_even, denoised_odd, shape),
            covariance(denoised_even, denoised_even, shape),
            covariance(denoised_odd, denoised_odd, shape),
        ],
        dim=-2,
    )


def estimate_held_out(raw: Tensor, denoised: Tensor, held_out: Tensor, shape: fourier.Shape) -> Tensor:
    """Ring sums as from ``estimate`` for a denoised image, judged by frames that are not in it.

    One denoising at nearly the full exposure instead of two at half. Figures that need a second output, c_D and with it
    the γ-free ones of noise and bias, are NaN.

    Parameters
    ----------
    raw : (h, w//2+1) spectrum of the sum that was denoised, tapered.
    denoised : of the output, tapered.
    held_out : of the other frames' sum, tapered and scaled so that its signal is as strong as that of ``raw``.
    """
    v, c_x = covariance(raw, held_out, shape), covariance(denoised, held_out, shape)
    p_m, p_d = covariance(raw, raw, shape), covariance(denoised, denoised, shape)
    return torch.stack([v, p_m, p_m, c_x, torch.full_like(v, torch.nan), p_d, p_d])


def ratios(sums: Tensor) -> Estimates:
    """Figures from the sums of ``estimate``, (7, …); pool before calling. Undefined ratios are NaN."""
    v, p_1, p_2, c_x, c_d, p_d1, p_d2 = sums
    p_m, p_d = (p_1 * p_2).sqrt(), (p_d1 * p_d2).sqrt()
    nan = torch.full_like(v, torch.nan)
    signal = torch.where(v > 0, v, nan)
    rho2 = torch.where(p_d > 0, c_x**2 / (p_d * signal), torch.zeros_like(v))
    bounded = torch.where(c_x > 0, rho2.clamp(max=1.0 - 1e-9), torch.zeros_like(v))
    gamma, noise = c_x / signal, p_d - c_d
    transferred, bias = c_x**2 / signal, c_d - c_x**2 / signal
    return Estimates(
        snr=v / (p_m - v),
        gamma=gamma,
        bias=bias,
        bias_total=bias + (1.0 - gamma) ** 2 * signal,
        noise=noise,
        snbr=torch.where(v > 0, bounded / (1.0 - bounded), nan),
        snr_denoised=torch.where(noise > 0, transferred / noise, nan),
        sbr=torch.where(bias != 0, transferred / bias, nan),
        signal=v,
        rho2=rho2,
    )


def band_mask(shape: fourier.Shape, pixel_size: float, band_low: float, band_high: float) -> Tensor:
    """(rings,) bool of the rings between two resolutions in Å; the fine end is Nyquist if that is coarser."""
    frequency = fourier.ring_frequencies(shape) / pixel_size
    return (frequency >= 1.0 / band_low) & (frequency <= 1.0 / band_high) & (frequency > 0)


def pooled(sums: Tensor, mask: Tensor) -> Estimates:
    """Figures pooled over the rings of a mask."""
    return ratios(sums[:, mask.to(sums.device)].sum(1))


def finite(value: Tensor | float) -> float | None:
    """A number for a record: None where it is not finite."""
    number = float(value)
    return number if number == number and abs(number) != float("inf") else None
