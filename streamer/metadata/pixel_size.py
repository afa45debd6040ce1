"""The pixel size of a movie, from sources that may speak of other images. Which rule chose it stands in the record.

``settings``: movie.pixel_size.

``magnification``: else the user's calibration for the sidecar's magnification.

``sidecar``: else the sidecar's value, where it is of an image of the movie's size, or of one of unknown size.
``sidecar, scaled``: where it is of an image of another size, as EPU's integrated image of a K3 is binned by 2, it is
divided by the ratio of the sizes. That must be the same 1, 2, 4, ½ or ¼ along both axes, which may have changed places;
with any other ratio the value is not used. EPU's value is of an image of the size of ReadoutArea. SerialEM's is for the
binning that is written with it, and the size of a K2 or K3 movie shows which binning that movie has.

``header``: the movie's own, where nobody else knows; where it agrees with another value of the sidecar, that of EPU's
ReferenceTransformation, SerialEM's RefinedPixelSpacing or the one for the other image that could be meant; or where it
differs by a factor of 2 or 4 from a sidecar that does not tell the size of its image: binning explains that.

A value that differs by more than 1 % from the chosen one is flagged, and so is a choice that binning may spoil.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.metadata.agreement import agree, choose

if TYPE_CHECKING:
    from streamer.movie_record import Acquisition
    from streamer.records import MovieHeader
    from streamer.settings import MovieSettings

_RATIOS = (1.0, 2.0, 4.0, 0.5, 0.25)
_CROPPED = 0.01
"""Programs crop binned images by up to this share, to sizes that their camera likes."""
_COUNTING = ((4092, 5760), (3838, 3710))
"""Physical pixels of K3 and K2; their movies have these, twice, or after binning half of them."""
_SENSORS = ((4096, 4096), *_COUNTING)
"""What cameras read out without binning."""
_SUPER_RESOLVED = tuple((2 * height, 2 * width) for height, width in _COUNTING)
"""What EPU bins by 2 where a K3 or K2 is set to super-resolution: an image as large as a movie of physical pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What a sidecar's value means for the movie, in Å per physical pixel of its frames."""

    values: tuple[float, ...] = ()
    """The most likely one first; none: it cannot be used."""
    scaled: bool = False
    is_certain: bool = False
    """Whether the size of its image proves the first one."""
    flag: str | None = None
    """What is doubtful, where nothing else decides."""


def choose_pixel_size(
    told: Acquisition, header: MovieHeader, settings: MovieSettings, flags: list[str]
) -> tuple[float | None, str | None]:
    """Å/px on the grid of the frames, and the name of the rule that chose it; None and None where nobody knows.

    Parameters
    ----------
    flags : gets what a user should know.
    """
    # people and sidecars give physical pixels, the header those of the grid
    grid = header.upsampling
    calibrated = _by_magnification(told, settings)
    sidecar = _of_sidecar(told, header)
    values = [value / grid for value in sidecar.values]
    by_user = {
        "settings": None if settings.pixel_size is None else settings.pixel_size / grid,
        "magnification": None if calibrated is None else calibrated / grid,
    }
    likely = values[0] if values else None
    if any(value is not None for value in by_user.values()):
        value = choose("pixel_size", flags, **by_user, sidecar=likely, header=header.pixel_size)
        return value, next(name for name, given in by_user.items() if given is not None)
    if header.pixel_size is not None and _header_decides(header.pixel_size, values, sidecar):
        if sidecar.flag is not None and not values:
            flags.append(sidecar.flag)
        return choose("pixel_size", flags, header=header.pixel_size, sidecar=likely), "header"
    if likely is None:
        flags += [sidecar.flag] if sidecar.flag is not None else []
        return None, None
    is_confirmed = header.pixel_size is not None and agree(likely, header.pixel_size)
    if sidecar.flag is not None and not is_confirmed:
        flags.append(sidecar.flag)
    value = choose("pixel_size", flags, sidecar=likely, header=header.pixel_size)
    return value, "sidecar, scaled" if sidecar.scaled else "sidecar"


def _header_decides(own: float, values: list[float], sidecar: _Told) -> bool:
    """Whether the header's value holds against the sidecar's most likely one."""
    if not values:
        return True
    if agree(values[0], own):
        return False
    if any(agree(value, own) for value in values[1:]):
        return True
    factors = [ratio for ratio in _RATIOS if ratio != 1.0]
    return not sidecar.is_certain and any(agree(values[0] * ratio, own) for ratio in factors)


def _of_sidecar(told: Acquisition, header: MovieHeader) -> _Told:
    if told.pixel_size is None:
        return _Told()
    shape = (header.height // header.upsampling, header.width // header.upsampling)
    image = None
    if told.image_height is not None and told.image_width is not None:
        image = (told.image_height, told.image_width)
    by_binning = _by_binning(told, shape)
    if by_binning is not None:
        return _with_reference(told, by_binning, (), is_certain=True)
    if image is None:
        return _of_unknown_image(told)
    ratio = _ratio(shape, image, may_be_cropped=told.program == "SerialEM")
    if ratio is None:
        size = f"{image[1]} × {image[0]} px, which is no binning of the movie's {shape[1]} × {shape[0]}"
        return _Told(flag=f"pixel_size: the sidecar's {told.pixel_size:g} is of an image of {size}: not used")
    binning = told.binning or 1.0
    read_out = (round(image[0] * binning), round(image[1] * binning))
    if ratio == 1.0 and binning > 1.0 and read_out not in _SENSORS and read_out[::-1] not in _SENSORS:
        other = told.pixel_size / binning
        found = _with_reference(told, told.pixel_size, (other,), is_certain=False)
        if read_out in _SUPER_RESOLVED or read_out[::-1] in _SUPER_RESOLVED:
            return found
        flag = (
            f"pixel_size: the sidecar's image is binned by {binning:g} and as large as the movie: {told.pixel_size:g} "
            f"was used, but {other:g} is possible; set movie.pixel_size"
        )
        return _Told(values=found.values, flag=flag)
    return _with_reference(told, told.pixel_size / ratio, (), is_certain=True)


def _with_reference(told: Acquisition, value: float, others: tuple[float, ...], *, is_certain: bool) -> _Told:
    """Add the second value that a sidecar may have of the same image, where it contradicts the first."""
    own, reference = told.pixel_size or value, told.reference_pixel_size
    flag = None
    if reference is not None and not agree(own, reference):
        others = (*others, reference * value / own)
        place = "RefinedPixelSpacing" if told.program == "SerialEM" else "ReferenceTransformation"
        flag = f"pixel_size: sidecar says {own:g}, its {place} says {reference:g}"
    return _Told(values=(value, *others), scaled=value != own, is_certain=is_certain, flag=flag)


def _of_unknown_image(told: Acquisition) -> _Told:
    found = _with_reference(told, told.pixel_size or 0.0, (), is_certain=False)
    if told.binning is None or told.binning <= 1.0 or found.flag is not None:
        return found
    flag = (
        f"pixel_size: the sidecar's {told.pixel_size:g} is for binning {told.binning:g}, and the movie's size does not "
        "show whether its frames are binned too; set movie.pixel_size"
    )
    return _Told(values=found.values, flag=flag)


def _by_binning(told: Acquisition, shape: tuple[int, int]) -> float | None:
    """Å/px of a movie whose size shows what it is in physical pixels, from a value that belongs to a binning.

    Only for SerialEM, whose values do; an image of EPU's says its size.
    """
    if told.pixel_size is None or told.binning is None or told.program != "SerialEM":
        return None
    for sensor in _COUNTING:
        for finer in (1.0, 2.0, 0.5):
            if shape in [tuple(int(side * finer) for side in axes) for axes in (sensor, sensor[::-1])]:
                return told.pixel_size / told.binning / finer
    return None


def _ratio(shape: tuple[int, int], image: tuple[int, int], *, may_be_cropped: bool) -> float | None:
    """How many pixels of the movie one of the image has along each axis; None for no ratio that binning makes."""
    for ratio in _RATIOS:
        for sides in (image, image[::-1]):
            if all(_is_multiple(*pair, ratio, may_be_cropped) for pair in zip(shape, sides, strict=True)):
                return ratio
    return None


def _is_multiple(side: int, other: int, ratio: float, may_be_cropped: bool) -> bool:
    large, small, times = (side, other, int(ratio)) if ratio >= 1 else (other, side, int(1 / ratio))
    return large // times == small or (may_be_cropped and 0 <= large - times * small <= _CROPPED * large)


def _by_magnification(told: Acquisition, settings: MovieSettings) -> float | None:
    """Å/px that the settings give for the sidecar's magnification."""
    if told.magnification is None:
        return None
    sizes = {float(name): size for name, size in settings.pixel_size_by_magnification.items()}
    return sizes.get(float(told.magnification))
