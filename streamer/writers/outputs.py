"""All files of one movie, in the directory of its revision; the record is written last.

<session>/movies/<path below the root, with extension>/r1/<stem>.mrc  _EVN.mrc  _ODD.mrc  _denoised.mrc  _SR.mrc
                                          <stem>.star  _thumbnail.png  _denoised_thumbnail.png  _PS.png  .json
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from streamer import fourier, jsontext
from streamer.errors import StageError
from streamer.motion import field
from streamer.movie_record import MovieRecord, OutputFile, Software
from streamer.settings import DataPathSettings, settings_sha256
from streamer.sums.group_files import encode_groups
from streamer.writers.atomic import write_atomically
from streamer.writers.mrc import encode_image, fitting
from streamer.writers.star import ROLE_EVEN, ROLE_MICROGRAPH, ROLE_MOTION, ROLE_ODD, motion_star
from streamer.writers.thumbnail import encode_png, encode_power_spectrum

if TYPE_CHECKING:
    from streamer.micrograph import Micrograph
    from streamer.movie_record import ModelRef, SuperResolutionVerdict
    from streamer.records import Movie
    from streamer.runtime.stopwatch import Stopwatch


def software(device: torch.device, settings: DataPathSettings) -> Software:
    """The software and hardware in use: all that a reproduction has to match."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Software(
        version=version("cryoem-streamer"),
        torch=str(torch.__version__),
        device=name,
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        settings_sha256=settings_sha256(settings),
    )


class _Directory:
    """Writes files of one revision and keeps the list of those that are complete."""

    def __init__(self, session_directory: Path, movie: Movie) -> None:
        self._session = session_directory
        self._path = session_directory / "movies" / movie.relative / f"r{movie.revision}"
        self._stem = Path(movie.relative).stem
        self.files: list[OutputFile] = []
        self.flags: list[str] = []

    def add(self, role: str, suffix: str, data: bytes, *, derived: bool = False) -> None:
        """Write a file that is not an image for other programs."""
        self.files.append(self._written(role, suffix, data, derived=derived))

    def add_picture(self, role: str, suffix: str, image: Tensor, side: int, labels: list[str]) -> None:
        """Write a PNG of a derived image, which says so itself."""
        picture = encode_png(_array(image), longer_side_px=side, label="; ".join(labels))
        self.add(role, suffix, picture, derived=True)

    def add_image(
        self,
        role: str,
        suffix: str,
        image: Tensor,
        *,
        dtype: str,
        pixel_size: float,
        labels: list[str],
        derived: bool,
    ) -> None:
        """Write an image as MRC."""
        exact = _array(image)
        if not np.isfinite(exact).all():
            raise StageError(
                f"the {role} image contains values that are not finite",
                where="write",
                hint="look at the movie and at the gain reference, for example with 3dmod: one of them is damaged",
            )
        values = fitting(exact, dtype)
        if values.dtype.name != dtype:
            self.flags.append(f"outputs: {role} as float32, its values do not fit {dtype}")
        data = encode_image(values, pixel_size=pixel_size, labels=labels)
        file = self._written(role, suffix, data, derived=derived)
        self.files.append(replace(file, shape=list(values.shape), dtype=values.dtype.name, pixel_size=pixel_size))

    def record(self, record: MovieRecord) -> None:
        """Write the record next to the files it lists."""
        write_atomically(self._path / f"{self._stem}.json", jsontext.encode(record, indent=1))

    def _written(self, role: str, suffix: str, data: bytes, *, derived: bool) -> OutputFile:
        path = self._path / f"{self._stem}{suffix}"
        written = write_atomically(path, data)
        return OutputFile(
            role=role,
            path=path.relative_to(self._session).as_posix(),
            bytes=written.bytes,
            sha256=written.sha256,
            derived=derived,
            not_for_reconstruction=derived,
        )


def write_outputs(
    movie: Movie,
    micrograph: Micrograph,
    session_directory: Path,
    settings: DataPathSettings,
    device: torch.device,
    stopwatch: Stopwatch,
) -> MovieRecord:
    """Write everything of one movie and return its record.

    Raises
    ------
    OutputError
        If a file cannot be written; no part of it is left behind.
    """
    directory = _Directory(session_directory, movie)
    _write_images(directory, micrograph, settings)
    _write_motion(directory, movie, micrograph)
    if settings.outputs.keep_groups and micrograph.groups is not None:
        directory.add("groups", "_groups.safetensors", encode_groups(movie.movie_id, micrograph.groups))
    record = MovieRecord(
        movie_id=movie.movie_id,
        session=movie.session,
        path=movie.relative,
        revision=movie.revision,
        supersedes=movie.revision - 1 if movie.revision > 1 else None,
        state="done",
        flags=[*micrograph.flags, *directory.flags],
        shed=list(micrograph.shed),
        source=micrograph.source,
        metrics=micrograph.metrics,
        ctf=micrograph.ctf,
        restoration=micrograph.restored.by,
        model=micrograph.restored.model,
        outputs=directory.files,
        software=software(device, settings),
        times=stopwatch.times(),
    )
    published = jsontext.as_shown(record)
    directory.record(published)
    return published


def _write_images(directory: _Directory, micrograph: Micrograph, settings: DataPathSettings) -> None:
    """Plain sum, halves, restored and super-resolved images, and their pictures."""
    sums, dtype, side = micrograph.sums, settings.outputs.dtype, settings.outputs.thumbnail_px
    program = f"cryoem-streamer {version('cryoem-streamer')}"
    weighted = "unweighted" if micrograph.source.dose_per_frame is None else "dose-weighted"
    plain = fourier.to_image(sums.total, sums.shape)
    sizes = {"pixel_size": sums.pixel_size}
    directory.add_image(
        ROLE_MICROGRAPH, ".mrc", plain, dtype="float32", derived=False, **sizes,
        labels=[f"{program}: aligned {weighted} sum, white noise"],
    )  # fmt: skip
    for role, suffix, half, which in (
        (ROLE_EVEN, "_EVN.mrc", sums.even, "even"),
        (ROLE_ODD, "_ODD.mrc", sums.odd, "odd"),
    ):
        directory.add_image(
            role, suffix, fourier.to_image(half, sums.shape), dtype=dtype, derived=False, **sizes,
            labels=[f"{program}: aligned {weighted} {which} frames; even + odd = sum"],
        )  # fmt: skip
    labels, pictures = _restored_labels(program, micrograph), "preview" not in micrograph.shed
    directory.add_image(
        "denoised", "_denoised.mrc", micrograph.restored.image, dtype=dtype, derived=True, **sizes, labels=labels
    )
    if pictures:
        directory.add_picture("denoised thumbnail", "_denoised_thumbnail.png", micrograph.restored.image, side, labels)
    fine, sr = micrograph.super_resolution.image, micrograph.super_resolution.verdict
    if fine is not None and (settings.outputs.super_resolution == "always" or sr.verdict == "helps"):
        labels = super_resolution_labels(sr, filtered=settings.super_resolution.filtered)
        directory.add_image(
            "super-resolution", "_SR.mrc", fine, dtype=dtype, derived=True, pixel_size=sums.pixel_size / 2.0,
            labels=labels,
        )  # fmt: skip
        if pictures:
            directory.add_picture("super-resolution thumbnail", "_SR_thumbnail.png", fine, side, labels)
    if pictures:
        directory.add("thumbnail", "_thumbnail.png", encode_png(_array(plain), longer_side_px=side))
        directory.add(
            "power spectrum", "_PS.png", encode_power_spectrum(_array(plain), pixel_size=micrograph.source.pixel_size)
        )


def super_resolution_labels(verdict: SuperResolutionVerdict, *, filtered: bool) -> list[str]:
    """MRC labels of an image on half the pixel size: what made it, and whether it was shown to help."""
    program, version_of = f"cryoem-streamer {version('cryoem-streamer')}", verdict.model
    made = {"zssr": "cryo-ZSSR", "network": "frames fused, gains of a network"}.get(
        verdict.method or "", "frames fused"
    )
    labels = [
        f"{program}: half the pixel size: {verdict.verdict}",
        made if version_of is None else f"{made}: model {version_of.version}",
    ]
    # with its noise left white and no network the fused image is a sum like the plain one
    return labels if verdict.method == "fusion" and not filtered else [*labels, "NOT FOR RECONSTRUCTION"]


def _restored_labels(program: str, micrograph: Micrograph) -> list[str]:
    """MRC labels that say what made the restored image."""
    if micrograph.restored.by == "none":
        return [f"{program}: no significant signal; the plain sum, untouched", "NOT FOR RECONSTRUCTION"]
    if micrograph.restored.model is None:
        return [f"{program}: Wiener estimate, no network", "NOT FOR RECONSTRUCTION"]
    weights = " ".join(f"{value:.2f}" for _, value in micrograph.restored.model.weight)
    return [
        f"{program}: Wiener estimate corrected by model {micrograph.restored.model.version}",
        f"sha256 {micrograph.restored.model.sha256}",
        f"lambda by band {weights}"[:80],
        corrected_band(micrograph.restored.model),
        "NOT FOR RECONSTRUCTION",
    ]


def corrected_band(model: ModelRef) -> str:
    """MRC label that says where a network changed the image; elsewhere it is the Wiener estimate."""
    changed = [1.0 / frequency for frequency, value in model.weight if value > 0.0]
    # the curve falls to 0 at the next point
    ends = [1.0 / frequency for frequency, value in model.weight if value <= 0.0 and 1.0 / frequency < min(changed)]
    return f"changed between {max(changed):.0f} and {max(ends, default=min(changed)):.1f} A, Wiener beyond"


def _write_motion(directory: _Directory, movie: Movie, micrograph: Micrograph) -> None:
    """RELION's per-movie metadata."""
    source, bends = micrograph.source, micrograph.motion.local
    text = motion_star(
        movie=_star_name(movie.relative),
        n_frames=source.n_frames,
        height=source.height,
        width=source.width,
        shifts_yx_px=micrograph.metrics.shifts_yx_px,
        original_pixel_size=source.pixel_size,
        voltage_kv=source.voltage_kv,
        dose_per_frame=source.dose_per_frame,
        pre_exposure=source.pre_exposure,
        gain=_star_name(source.gain_path) if source.gain_path else None,
        hot_pixels_yx=micrograph.hot_pixels.tolist(),
        local_model=[] if bends is None else field.relion_model(bends)[0],
    )
    directory.add(ROLE_MOTION, ".star", text.encode())


def _star_name(path: str) -> str:
    """A path as STAR can represent it; other characters become underscores."""
    return "".join(c if c.isprintable() and c != '"' else "_" for c in path)


def _array(image: Tensor) -> np.ndarray:
    return image.detach().cpu().numpy()
