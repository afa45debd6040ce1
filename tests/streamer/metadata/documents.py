"""Sidecars in our own words, of the shape that EPU and SerialEM give them."""

from __future__ import annotations

ARRAYS = "http://schemas.microsoft.com/2003/10/Serialization/Arrays"
DRAWING = "http://schemas.datacontract.org/2004/07/System.Drawing"


def epu_xml(
    *,
    pixel_size: float | str = 1.66,
    y: float | None = None,
    readout: tuple[int, int] | None = None,
    binning: int = 1,
    reference: float | None = None,
    dose: float | None = 50.0,
    fractions: int | list[tuple[int, int]] = 10,
    exposure_time: float | None = None,
    magnification: int = 105000,
    custom: dict[str, object] | None = None,
    camera: str = "",
) -> str:
    """A ``MicroscopeImage``.

    Parameters
    ----------
    pixel_size, reference : Å; text stands as it is given, in metres.
    readout : width and height, px.
    dose : e⁻/Å².
    fractions : how many, or first and last hardware frame of each.
    camera : more elements of the camera.
    """
    metres = pixel_size if isinstance(pixel_size, str) else f"{pixel_size * 1e-10:.12g}"
    along_y = metres if y is None else f"{y * 1e-10:.12g}"
    known = dict(custom or {}) | ({} if dose is None else {"Dose": f"{dose * 1e20:.12g}"})
    pairs = "".join(f"<a:K><a:Key>{key}</a:Key><a:Value>{value}</a:Value></a:K>" for key, value in known.items())
    if isinstance(fractions, int):
        division = f"<b:NumberOffractions>{fractions}</b:NumberOffractions>"
    else:
        division = "".join(
            f"<a:anyType><b:EndFrameNumber>{end}</b:EndFrameNumber><b:StartFrameNumber>{start}</b:StartFrameNumber>"
            "</a:anyType>"
            for start, end in fractions
        )
        division = f"<b:DoseFractions>{division}</b:DoseFractions>"
    area = ""
    if readout is not None:
        area = f"<ReadoutArea><d:height>{readout[1]}</d:height><d:width>{readout[0]}</d:width></ReadoutArea>"
    matrix = ""
    if reference is not None:
        # turned by 53°: 0.6 and 0.8
        parts = {"11": -0.6, "12": -0.8, "21": -0.8, "22": 0.6}
        values = "".join(f"<a:_m{key}>{part * reference * 1e-10:.12g}</a:_m{key}>" for key, part in parts.items())
        matrix = f"<ReferenceTransformation><matrix>{values}</matrix></ReferenceTransformation>"
    time = "" if exposure_time is None else f"<ExposureTime>{exposure_time}</ExposureTime>"
    return (
        f'<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects" xmlns:a="{ARRAYS}" '
        f'xmlns:b="urn:fractions" xmlns:d="{DRAWING}"><CustomData>{pairs}</CustomData>{matrix}'
        f"<SpatialScale><pixelSize><x><numericValue>{metres}</numericValue></x><y><numericValue>{along_y}</numericValue>"
        "</y></pixelSize></SpatialScale><microscopeData><acquisition><camera>"
        f"<Binning><d:x>{binning}</d:x><d:y>{binning}</d:y></Binning><Name>EF-CCD</Name>{area}{time}{camera}"
        f"<CameraSpecificInput><a:K><a:Key>FractionationSettings</a:Key><a:Value>{division}</a:Value></a:K>"
        "</CameraSpecificInput></camera></acquisition><gun><AccelerationVoltage>300000</AccelerationVoltage></gun>"
        f"<optics><TemMagnification><NominalMagnification>{magnification}</NominalMagnification></TemMagnification>"
        "</optics></microscopeData></MicroscopeImage>"
    )


def recorded_xml(fractions: list[dict[str, object]], **info: object) -> str:
    """The camera's ``Acquisition``: elements of each fraction, and of ``Info``."""
    told = {"RecordedNumberOfFractions": len(fractions)} | info
    head = "".join(f"<{key}>{value}</{key}>" for key, value in told.items())
    listed = "".join(
        "<Fraction>" + "".join(f"<{key}>{value}</{key}>" for key, value in each.items()) + "</Fraction>"
        for each in fractions
    )
    return f"<Acquisition><Info>{head}</Info><Fractions>{listed}</Fractions></Acquisition>"


def mdoc_text(
    *, file: str | None = "a.tif", head: str = "T = SerialEM: a Krios\nVoltage = 300\n", **values: object
) -> str:
    """One frame set; ``values`` replace lines or add some, None leaves one out."""
    lines: dict[str, object] = {
        "PixelSpacing": 1.25,
        "Binning": 1,
        "ExposureDose": 20,
        "NumSubFrames": 10,
        "FrameDosesAndNumber": "2 10",
        "SubFramePath": None if file is None else f"X:\\session\\frames\\{file}",
    } | values
    return head + "\n[FrameSet = 0]\n" + "".join(f"{k} = {v}\n" for k, v in lines.items() if v is not None)
