import pytest
import torch

from streamer.detector.mtf import read_blur
from streamer.errors import ConfigError

K2 = [(0.0, 1.0), (0.1, 0.95), (0.2, 0.86), (0.3, 0.73), (0.4, 0.57), (0.5, 0.39)]


def star(path, rows, names=("_rlnResolutionInversePixel", "_rlnMtfValue")):
    lines = ["data_", "loop_", *names, *(f"{f} {v}" for f, v in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_box_is_taken_out_of_what_was_measured(tmp_path):
    blur = read_blur(star(tmp_path / "mtf.star", K2))
    for f, value in K2:
        assert float(blur(torch.tensor(f))) == pytest.approx(value / float(torch.sinc(torch.tensor(f))), rel=1e-4)


def test_beyond_nyquist_it_falls_on_without_a_step(tmp_path):
    blur = read_blur(star(tmp_path / "mtf.star", K2))
    values = blur(torch.linspace(0.0, 1.4, 200))
    assert (values[1:] <= values[:-1] + 1e-6).all()
    assert float(blur(torch.tensor(0.5001))) == pytest.approx(float(blur(torch.tensor(0.4999))), abs=2e-3)
    assert 0.0 < float(blur(torch.tensor(1.0))) < 0.5


def test_a_gaussian_is_found_again(tmp_path):
    f = torch.linspace(0.0, 0.5, 51, dtype=torch.float64)
    values = torch.sinc(f) * torch.exp(-1.43 * f**2)
    blur = read_blur(star(tmp_path / "mtf.star", zip(f.tolist(), values.tolist(), strict=True)))
    place = torch.tensor([0.25, 0.6, 0.9, 1.2])
    torch.testing.assert_close(blur(place), torch.exp(-1.43 * place**2), rtol=2e-3, atol=0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_any_shape_and_order_of_frequencies(tmp_path, shape):
    blur = read_blur(star(tmp_path / "mtf.star", K2))
    places = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert blur(places).shape == shape
    assert blur(places).dtype == places.dtype


@pytest.mark.parametrize(
    "rows", [[], [(0.0, 1.0)], [(0.0, 1.0), (0.01, 0.9), (0.02, 0.9), (0.03, 0.8)], [(f, -v) for f, v in K2]]
)
def test_what_is_no_mtf_is_refused(tmp_path, rows):
    with pytest.raises(ConfigError) as error:
        read_blur(star(tmp_path / "mtf.star", rows))
    assert "mtf.star" in str(error.value)


def test_a_missing_file_or_other_columns_are_refused_with_a_hint(tmp_path):
    for path in (tmp_path / "gone.star", star(tmp_path / "other.star", K2, ("_rlnA", "_rlnB")), tmp_path):
        with pytest.raises(ConfigError, match="rlnMtfValue"):
            read_blur(path)
