import pytest
import torch

from models.manifest import NetConfig
from models.noise2noise import WienerResidualNet, infer
from streamer.errors import ModelError
from tests.simulated_movies import images, unchanged


def fresh(seed=0, **config):
    torch.manual_seed(seed)
    return WienerResidualNet(NetConfig(**config)).eval()


def disturbed():
    """A net that does something: its last convolution does not start at zero."""
    net = fresh()
    torch.nn.init.normal_(net.last.weight, std=0.2)
    return net


def test_the_size_of_the_net():
    """12/16/28/40 channels, two 3×3 convolutions each way: counted by hand as Σ 9·in·out + out."""
    assert sum(parameter.numel() for parameter in fresh().parameters()) == 78_677


def test_an_untrained_net_is_the_wiener_estimate_exactly():
    inputs = images(3, 2, 64, 72)
    with unchanged(inputs):
        outputs = fresh()(inputs)
    assert torch.equal(outputs, inputs[:, 1:2])


@pytest.mark.parametrize("shape", [(64, 64), (72, 128), (200, 104)])
def test_the_untrained_net_gives_back_a_whole_field(shape):
    micrograph, linear = images(2, *shape)
    with unchanged(micrograph, linear):
        assert torch.equal(infer(fresh(), micrograph, linear), linear)


def test_a_batch_is_its_members():
    net, inputs = disturbed(), images(3, 2, 32, 40)
    with torch.inference_mode():
        together = net(inputs)
        for index in range(3):
            torch.testing.assert_close(net(inputs[index : index + 1])[0], together[index], rtol=1e-4, atol=1e-5)


def test_the_border_sees_no_zeros():
    """A constant field stays constant up to the edge; zero padding alone would show there."""
    net = disturbed()
    flat = torch.ones(96, 96)
    inside = infer(net, flat, flat)
    assert float(inside.std()) < 0.02 * float(inside.mean().abs())
    with torch.inference_mode():
        bare = net(torch.stack([flat, flat])[None])[0, 0]
    assert float(bare.std()) > 5 * float(inside.std())


@pytest.mark.parametrize("shape", [(8, 8), (16, 24), (40, 8)])
def test_small_fields_get_a_smaller_halo(shape):
    assert infer(disturbed(), *images(2, *shape)).shape == shape


def test_what_comes_out_may_be_written_to():
    outputs = infer(disturbed(), *images(2, 32, 32))
    outputs += 1.0
    assert not outputs.requires_grad


def test_any_number_of_levels():
    net = fresh(widths=(4, 8))
    assert torch.equal(net(images(1, 2, 10, 12)), images(1, 2, 10, 12)[:, 1:2])


@pytest.mark.parametrize(
    "config", [{"kind": "other"}, {"widths": (8,)}, {"widths": ()}, {"widths": (8, 0)}, {"widths": (-4, 8)}]
)
def test_unknown_nets_are_refused(config):
    with pytest.raises(ModelError, match="unknown network"):
        fresh(**config)


def test_not_a_number_comes_through():
    micrograph, linear = images(2, 32, 32)
    micrograph[5, 5] = torch.nan
    assert torch.isnan(infer(disturbed(), micrograph, linear)).any()
