import pytest
from torch import nn

from ssl_pretext.encoders.modes import eval_mode


@pytest.fixture
def network():
    """A network in training mode with one nested part in eval mode."""
    inner = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2).eval())
    return nn.Sequential(inner, nn.Dropout())


def modes(network):
    return {name: part.training for name, part in network.named_modules()}


def test_parts_with_different_modes_are_restored(network):
    before = modes(network)
    assert set(before.values()) == {True, False}
    with eval_mode(network):
        assert not any(modes(network).values())
    assert modes(network) == before


def test_modes_are_restored_after_an_exception(network):
    before = modes(network)
    with pytest.raises(RuntimeError, match="out of memory"), eval_mode(network):
        raise RuntimeError("out of memory")
    assert modes(network) == before
