import pytest
import torch

from streamer.fourier import edge
from streamer.super_resolution.tiles import BLEND, FADE, Tiles
from tests.simulated_movies import images

FIELDS = [(256, 256), (31, 300), (99, 101), (513, 90)]


@pytest.mark.parametrize("shape", FIELDS)
@pytest.mark.parametrize("side", [64, 128, 256])
def test_what_is_cut_and_blended_is_the_image(shape, side):
    """The faded border of one tile is what its neighbour holds in full."""
    image, tiles = images(*shape), Tiles(shape, side)
    still = torch.zeros((len(tiles), 2), dtype=torch.int64)
    torch.testing.assert_close(tiles.blend(tiles.cut(image, still)), image, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", FIELDS)
def test_weights_add_up_to_one_on_any_grid(shape):
    tiles = Tiles(shape, 64)
    blended = tiles.blend(torch.ones((len(tiles), 128, 128)), 2)
    torch.testing.assert_close(blended, torch.ones((2 * shape[0], 2 * shape[1])))


def test_each_tile_is_cut_from_where_it_was_moved_from():
    shape, side = (200, 210), 64
    image, tiles = images(*shape), Tiles(shape, 64)
    middle = next(n for n, corner in enumerate(tiles.corners.tolist()) if min(corner) > 0)
    moved = torch.zeros((len(tiles), 2), dtype=torch.int64)
    moved[middle] = torch.tensor([5, -7])
    cut = tiles.cut(image, moved)[middle, FADE:-FADE, FADE:-FADE]
    y, x = (tiles.corners[middle] - moved[middle] + FADE).tolist()
    torch.testing.assert_close(cut, image[y : y + side - 2 * FADE, x : x + side - 2 * FADE])


def test_what_lies_beyond_the_field_is_nothing():
    tiles = Tiles((40, 50), 64)
    far = torch.full((len(tiles), 2), 100_000)
    assert not tiles.cut(images(40, 50), far).any()
    assert not tiles.cut(images(40, 50), -far).any()


def test_inside_marks_the_pixels_of_the_field():
    tiles = Tiles((70, 300), 64)
    still = torch.zeros((len(tiles), 2), dtype=torch.int64)
    ones = tiles.cut(torch.ones(70, 300), still)
    assert torch.equal(ones > 0, tiles.inside(torch.arange(len(tiles))) > 0)


def test_centres_lie_in_the_field():
    tiles = Tiles((70, 300), 256)
    centres = tiles.centres()
    assert (centres >= 0).all()
    assert (centres < torch.tensor([70.0, 300.0])).all()


def test_neighbouring_edges_add_up_to_one():
    one = edge(64, FADE, BLEND)
    assert float(one[:FADE].max()) == 0.0
    torch.testing.assert_close(one[FADE : FADE + BLEND] + one[-FADE - BLEND : -FADE], torch.ones(BLEND))
