"""The truth of a movie as a file beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.simulation.scenes.scene import SceneTruth

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.simulation.movie import Truth


def write_truth(path: Path, truth: Truth) -> None:
    """Write what was really there, a scene's masks with it; ``numpy.load(path)`` reads it."""
    optics = truth.optics
    more = truth.more() if isinstance(truth, SceneTruth) else {}
    np.savez(
        path,
        image=truth.image.astype(np.float16),
        displacement=truth.displacement,
        bend=truth.bend,
        bend_amplitude=truth.bend_amplitude,
        particles=truth.particles,
        diameter=truth.diameter,
        defocus_u_um=optics.defocus_u_um,
        defocus_v_um=optics.defocus_v_um,
        astigmatism_angle_deg=optics.astigmatism_angle_deg,
        **more,
    )
