import msgspec
import pytest
import torch

from models.manifest import DENOISERS
from models.networks.denoiser import RestoreNet, build, infer
from streamer.errors import ModelError
from tests.simulated_movies import images, unchanged


def fresh(seed=0, **config):
    torch.manual_seed(seed)
    return build(msgspec.structs.replace(DENOISERS["small"], **config)).eval()


def disturbed():
    """A net that does something: its last convolution does not start at zero."""
    net = fresh()
    torch.nn.init.normal_(net.last.weight, std=0.2)
    return net


def test_the_size_of_the_net():
    """24/32/48 channels, two 3×3 convolutions each way: counted by hand as Σ 9·in·out + out."""
    assert sum(parameter.numel() for parameter in fresh().parameters()) == 108_324


def test_restores_network_has_the_size_of_the_published_one():
    """Palovcak et al. 2020: 96 convolutions and 2.3 million weights, 2,383,826 in the released ones."""
    net = build(DENOISERS["restore"])
    assert sum(parameter.numel() for parameter in net.parameters()) == 2_383_826
    assert sum(isinstance(module, torch.nn.Conv2d) for module in net.modules()) == 96
    skip = build(DENOISERS["restore-skip"])
    assert sum(parameter.numel() for parameter in skip.parameters()) == 2_383_826 + 32 * 32


def test_restores_network_sees_the_micrograph_alone_and_passes_only_its_skip_at_full_resolution():
    inputs = images(1, 2, 64, 64)
    changed = inputs.clone()
    changed[:, 1] += 1.0
    for name in ("restore", "restore-skip"):
        torch.manual_seed(0)
        net = build(DENOISERS[name]).eval()
        assert isinstance(net, RestoreNet)
        with torch.no_grad():
            assert torch.equal(net(inputs), net(changed))
            plain = net(inputs)
            for upsampler in (*net.through[-1:], *(joined[-1] for joined in net.joined[-1:])):
                for parameter in upsampler.parameters():
                    parameter.zero_()
            # what comes up from below is silent now: only the skip at full resolution is left
            left = float(net(inputs).std())
        assert float(plain.std()) > 0.0
        assert (left > 1e-4) == (name == "restore-skip")


@pytest.mark.parametrize(
    ("name", "shape"), [("small", (360, 424)), ("small", (512, 400)), ("large", (280, 200)), ("restore", (280, 200))]
)
def test_tiles_are_the_whole_field(name, shape):
    torch.manual_seed(1)
    net = build(DENOISERS[name]).eval()
    torch.nn.init.normal_(net.last.weight, std=0.2)
    micrograph, linear = images(2, *shape)
    whole = infer(net, micrograph, linear)
    tiled = infer(net, micrograph, linear, tile=136)
    assert float((tiled - whole).abs().max()) < 1e-3 * float(whole.std())


def test_what_a_net_learned_to_be_loud_is_kept_with_its_weights():
    net = disturbed()
    inputs = images(1, 2, 32, 32)
    before = net(inputs)
    net.scale.fill_(0.25)
    assert not torch.equal(net(inputs), before)
    assert "scale" in net.state_dict()


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
    inside = _without_cells(infer(net, flat, flat))
    assert float(inside.std()) < 0.02
    with torch.inference_mode():
        bare = _without_cells(net(torch.stack([flat, flat])[None])[0, 0])
    assert float(bare.std()) > 5 * float(inside.std())


def _without_cells(image):
    """Less the mean of each place in a square of pixels that share their features."""
    cells = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2)
    return cells - cells.mean((0, 2), keepdim=True)


@pytest.mark.parametrize("shape", [(8, 8), (16, 24), (40, 8)])
def test_small_fields_get_a_smaller_halo(shape):
    assert infer(disturbed(), *images(2, *shape)).shape == shape


def test_what_comes_out_may_be_written_to():
    outputs = infer(disturbed(), *images(2, 32, 32))
    outputs += 1.0
    assert not outputs.requires_grad


def test_any_number_of_levels():
    net = fresh(widths=(4, 8))
    assert torch.equal(net(images(1, 2, 12, 16)), images(1, 2, 12, 16)[:, 1:2])


@pytest.mark.parametrize(
    "config",
    [{"stride": 4}, {"kind": "other"}, {"widths": (8,)}, {"widths": ()}, {"widths": (8, 0)}, {"widths": (-4, 8)}],
)
def test_unknown_nets_are_refused(config):
    with pytest.raises(ModelError, match="unknown network"):
        fresh(**config)


def test_not_a_number_comes_through():
    micrograph, linear = images(2, 32, 32)
    micrograph[5, 5] = torch.nan
    assert torch.isnan(infer(disturbed(), micrograph, linear)).any()
