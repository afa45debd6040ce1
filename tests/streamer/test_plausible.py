"""Values that no microscope has, and what was probably meant."""

import math

import pytest

from streamer.plausible import (
    AMPLITUDE_CONTRAST,
    CS,
    DOSE_PER_FRAME,
    EXPOSURE,
    LARGEST_SHIFT,
    MAGNIFICATION,
    PIXEL_SIZE,
    RESOLUTION,
    VOLTAGE,
)

EVERY = (
    PIXEL_SIZE,
    VOLTAGE,
    CS,
    AMPLITUDE_CONTRAST,
    DOSE_PER_FRAME,
    EXPOSURE,
    MAGNIFICATION,
    RESOLUTION,
    LARGEST_SHIFT,
)


@pytest.mark.parametrize(
    ("quantity", "value", "said"),
    [
        (PIXEL_SIZE, 1.5e-10, "in Å/px; 1.5e-10 looks like metres: 1.5"),
        (PIXEL_SIZE, 8.34e-11, "in Å/px; 8.34e-11 looks like metres: 0.834"),
        (PIXEL_SIZE, 0.15, "in Å/px; 0.15 looks like nm: 1.5"),
        (PIXEL_SIZE, 0.0834, "in Å/px; 0.0834 looks like nm: 0.834"),
        (PIXEL_SIZE, 83.4, "in Å/px; 83.4 looks like pm: 0.834"),
        (PIXEL_SIZE, 1e-4, "in Å/px; 0.0001 looks like µm: 1"),
        (PIXEL_SIZE, 1e9, "in Å/px; a microscope gives 0.2 to 20 Å/px"),
        (VOLTAGE, 300000, "in kV; 300000 looks like volts: 300"),
        (VOLTAGE, 2e5, "in kV; 200000 looks like volts: 200"),
        (VOLTAGE, 0.3, "in kV; 0.3 looks like MV: 300"),
        (VOLTAGE, 3, "in kV; a microscope gives 40 to 1300 kV"),
        (CS, 0.0027, "in mm; 0.0027 looks like metres: 2.7"),
        (CS, 2700, "in mm; 2700 looks like µm: 2.7"),
        (CS, 2.7e7, "in mm; 2.7e+07 looks like Å: 2.7"),
        (CS, 27, "in mm; a microscope gives 0 to 10 mm"),
        (AMPLITUDE_CONTRAST, 10, "a fraction, 0 to 1; 10 looks like percent: 0.1"),
        (AMPLITUDE_CONTRAST, 7, "a fraction, 0 to 1; 7 looks like percent: 0.07"),
        (DOSE_PER_FRAME, 50, "in e⁻/Å²; 50 looks like the dose of the whole movie: divide it by the number of frames"),
        (DOSE_PER_FRAME, 1.2e20, "in e⁻/Å²; 1.2e+20 looks like e⁻/m²: 1.2"),
        (EXPOSURE, 2000, "in e⁻/Å²; 2000 looks like e⁻/nm²: 20"),
        (MAGNIFICATION, 105, "in times; 105 looks like thousands: 105000"),
    ],
    ids=lambda value: getattr(value, "name", str(value))[:20],
)
def test_an_impossible_value_is_named_with_the_likely_intention(quantity, value, said):
    assert quantity.problem(value) == said
    assert quantity.doubt(value) is None


@pytest.mark.parametrize(
    ("quantity", "values"),
    [
        (PIXEL_SIZE, (0.3, 0.4125, 0.5, 0.834, 1.06, 1.5, 3.4, 7.1, 12.0)),
        (VOLTAGE, (80, 100, 120, 200, 300)),
        (CS, (0.0, 0.001, 0.005, 0.01, 1.2, 1.4, 2.0, 2.26, 2.7, 4.1)),
        (AMPLITUDE_CONTRAST, (0.0, 0.07, 0.1, 0.2)),
        (DOSE_PER_FRAME, (0.05, 0.3, 0.65, 1.25, 5.0)),
        (EXPOSURE, (0.0, 3.0, 120.0)),
        (RESOLUTION, (1.2, 3.5, 6.0, 100.0, 400.0)),
        (MAGNIFICATION, (2250, 81000, 105000, 270000)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_microscopes_have_is_neither_refused_nor_doubted(quantity, values):
    assert [(quantity.problem(value), quantity.doubt(value)) for value in values] == [(None, None)] * len(values)


def test_what_is_possible_but_seldom_is_doubted():
    assert PIXEL_SIZE.doubt(0.25) == (
        "0.25 Å/px is unusual for the pixel size; usual are 0.3 to 12 Å/px; if it is in nm, it means 2.5"
    )
    assert "usual are 0.05 to 8" in DOSE_PER_FRAME.doubt(12.0)
    assert "unusual" in AMPLITUDE_CONTRAST.doubt(0.7)
    assert "unusual" in VOLTAGE.doubt(1000)


@pytest.mark.parametrize("quantity", EVERY, ids=lambda quantity: quantity.name)
def test_what_is_no_quantity_is_impossible(quantity):
    assert all(quantity.problem(value) for value in (math.nan, math.inf, -math.inf, -1.0))
    assert quantity.problem(quantity.least) is None
    assert quantity.problem(quantity.most) is None
