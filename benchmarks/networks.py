"""Small encoders for the comparisons, registered under the names `small_cnn` and `strided_cnn`."""

from collections.abc import Mapping

from torch import nn

import ssl_pretext as sp

__all__ = ["SMALL_CNN", "SMALL_LAYERS", "STRIDED_CNN", "STRIDED_LAYERS"]

SMALL_CNN, STRIDED_CNN = "small_cnn", "strided_cnn"
# Output channels, kernel size and stride of each layer.
SMALL = {"conv1": (32, 3, 2), "conv2": (64, 3, 2), "conv3": (96, 3, 1), "conv4": (96, 3, 1), "conv5": (64, 3, 1)}
STRIDED = {"conv1": (64, 5, 2), "conv2": (128, 3, 2), "conv3": (256, 3, 2), "conv4": (256, 3, 1)}
SMALL_LAYERS, STRIDED_LAYERS = tuple(SMALL), tuple(STRIDED)


@sp.register_encoder(SMALL_CNN)
def small_cnn(in_channels: int = 1, width: float = 1.0) -> nn.Sequential:
    """Five convolutions, as many as AlexNet has, with an output of a quarter of the input's height and width."""
    return _stack(in_channels, SMALL, width)


@sp.register_encoder(STRIDED_CNN)
def strided_cnn(in_channels: int = 1, width: float = 1.0) -> nn.Sequential:
    """Four wide convolutions with an output of an eighth of the input's height and width, so that they stay cheap."""
    return _stack(in_channels, STRIDED, width)


def _stack(in_channels: int, layers: Mapping[str, tuple[int, int, int]], width: float) -> nn.Sequential:
    """Builds named convolutions with BatchNorm and ReLU; `width` multiplies the channels of each."""
    stack = nn.Sequential()
    for name, (channels, kernel, stride) in layers.items():
        channels = round(width * channels)
        convolution = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        stack.add_module(name, nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU()))
        in_channels = channels
    return stack
