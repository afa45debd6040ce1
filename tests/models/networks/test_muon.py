import pytest
import torch
from torch import nn

from models.networks.muon import MuonAndAdam


def stepped(net, rate=0.01, memory_format=torch.contiguous_format):
    """The change that one step makes to each parameter, for a loss with a lopsided gradient."""
    net = net.to(memory_format=memory_format)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimiser = MuonAndAdam(net.parameters())
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
    inputs = (
        torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(1))
        * torch.tensor([9.0, 1.0, 0.1])[:, None, None]
    )
    optimiser.zero_grad()
    net(inputs).square().mean().backward()
    optimiser.step()
    return {name: p.detach() - before[name] for name, p in net.named_parameters()}


def net_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))


def test_a_convolutions_step_is_equally_long_in_all_directions():
    change = stepped(net_of())["0.weight"].flatten(1)
    singular = torch.linalg.svdvals(change)
    assert float(singular.max() / singular.min()) < 2.5
    assert float(singular.mean()) == pytest.approx(0.01, rel=0.3)


def test_biases_and_thin_layers_are_moved_by_adam():
    change = stepped(net_of())
    for name in ("0.bias", "2.weight", "2.bias"):
        moved = change[name][change[name] != 0].abs()
        assert float(moved.max()) == pytest.approx(0.003, rel=0.01), "Adam's first step is its learning rate"


def test_the_memory_format_does_not_matter():
    one, other = (stepped(net_of(), memory_format=f) for f in (torch.contiguous_format, torch.channels_last))
    for name, change in one.items():
        torch.testing.assert_close(change, other[name], rtol=0.05, atol=2e-4)


def test_a_net_without_convolutions_or_with_nothing_else_is_trained_too():
    assert stepped(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)))["0.weight"].abs().max() > 0
    assert stepped(nn.Sequential(nn.Conv2d(3, 2, 3)))["0.bias"].abs().max() > 0
