"""The figures of the last movie as Prometheus gauges."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.health.gauges import KnownGauge
    from streamer.movie_record import MovieQuality
    from streamer.transfer_figures import CtfFigures


class MovieGauges:
    """One gauge for each figure that is watched over a session."""

    def __init__(self, gauge: Callable[..., KnownGauge]) -> None:
        """Make them, each with name, text and labels."""
        self._ssnr = gauge("movie_ssnr_full", "Signal over noise power of the last movie's sum, pooled.")
        self._snbr = gauge("movie_snbr_half", "Signal over noise and bias of the last movie's half.", "image")
        self._gain = gauge(
            "movie_model_gain_ratio",
            "Gain of the serving network over the Wiener filter on the last movie, before it could learn from it; "
            "own: of its halves; expected: as predicted from the movies that it was judged on; shown: of the picture.",
            "which",
        )
        self._resolution = gauge(
            "movie_frc_resolution_angstrom", "Resolution at which the last movie's halves stop agreeing."
        )
        self._total_motion = gauge("movie_total_motion_angstrom", "Total motion of the last movie.")
        self._early_motion = gauge(
            "movie_early_motion_angstrom", "Motion of the last movie up to 4 electrons per square angstrom."
        )
        self._late_motion = gauge(
            "movie_late_motion_angstrom", "Motion of the last movie after 4 electrons per square angstrom."
        )
        self._local_motion = gauge(
            "movie_local_motion_angstrom", "How much the last movie's motion varies over the field."
        )
        self._residual_gain = gauge(
            "movie_residual_gain_ratio", "Share of the gain reference's pattern left in the last movie; 0: it fits."
        )
        self._pattern = gauge(
            "movie_pattern_may_raise",
            "Whether the detector's pattern may have raised the last movie's SSNR, SNBR and resolution.",
        )
        self._confirmed = gauge(
            "movie_super_resolution_confirmed_ratio",
            "Share of what super-resolution adds to the last movie that unseen frames confirm; own: with their own "
            "shifts, control: with those of other frames.",
            "shifts",
        )
        self._mean = gauge("movie_mean_electrons", "Electrons per pixel and frame of the last movie, mean.")
        self._usable = gauge(
            "movie_usable_ratio", "Share of the last movie's field that is neither crystal, carbon, gold nor a hole."
        )
        self._hot = gauge("movie_hot_pixels", "Hot pixels found in the last movie.")
        self._defocus = gauge("movie_defocus_angstrom", "Mean defocus of the last movie; positive: underfocus.")
        self._defocus_sd = gauge("movie_defocus_sd_angstrom", "Standard deviation of the last movie's mean defocus.")
        self._astigmatism = gauge("movie_astigmatism_angstrom", "Astigmatism of the last movie, U less V.")
        self._fit_resolution = gauge(
            "movie_ctf_fit_resolution_angstrom", "Resolution to which the rings of the last movie's CTF are followed."
        )

    def show_ctf(self, ctf: CtfFigures | None) -> None:
        """Set what is known of the CTF; nothing where no rings were found."""
        self._defocus.set(None if ctf is None else ctf.defocus_angstrom)
        self._defocus_sd.set(None if ctf is None else ctf.defocus_sd_angstrom)
        self._astigmatism.set(None if ctf is None else ctf.astigmatism_angstrom)
        self._fit_resolution.set(None if ctf is None else ctf.fit_resolution_angstrom)

    def show(self, metrics: MovieQuality) -> None:
        """Set all that is of the image; what is unknown is not exported."""
        self._ssnr.set(metrics.ssnr_full)
        self._snbr.set(metrics.snr_half, "raw")
        self._snbr.set(metrics.snbr_half_wiener, "wiener")
        self._snbr.set(metrics.snbr_half_denoised, "denoised")
        self._resolution.set(metrics.frc_resolution_angstrom)
        self._total_motion.set(metrics.total_motion_angstrom)
        self._early_motion.set(metrics.early_motion_angstrom)
        self._late_motion.set(metrics.late_motion_angstrom)
        self._local_motion.set(metrics.local_motion_angstrom)
        self._residual_gain.set(metrics.residual_gain)
        self._pattern.set(metrics.pattern_may_raise)
        self._confirmed.set(metrics.sr.confirmed, "own")
        self._confirmed.set(metrics.sr.control, "control")
        self._mean.set(metrics.mean_counts)
        self._usable.set(metrics.usable_share)
        self._hot.set(metrics.n_hot_pixels)
        self._gain.set(metrics.score.gain if metrics.score else None, "own")
        self._gain.set(metrics.score.expected_gain if metrics.score else None, "expected")
        self._gain.set(metrics.score.gain_shown if metrics.score else None, "shown")
