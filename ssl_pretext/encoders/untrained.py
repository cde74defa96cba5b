"""Untrained copies of encoders, which are used as controls and should therefore be hard to beat."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_pretext.encoders.weights_file import WEIGHTS, WEIGHTS_SHA256
from ssl_pretext.registry import format_spec, parse_spec

__all__ = [
    "batch_norms",
    "closed_branches",
    "measured_statistics",
    "open_residual_branches",
    "starts_from_weights",
    "without_weights",
]

STARTING_WEIGHTS = ("pretrained", WEIGHTS, WEIGHTS_SHA256)  # options of encoders
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Names of the parameters that timm, torchvision and the papers' code multiply a residual branch by: LayerScale (Touvron
# et al. 2021, 2103.17239), SkipInit (De & Smith 2020, 2002.10444) and ReZero (Bachlechner et al. 2020, 2003.04887).
SCALE = re.compile(r"gamma(_\w+)?|\w*scale(_\d)?|\w*gain|ls\d?|resweight|rezero")
CLOSED = 0.01  # initial values of LayerScale are at most 1e-4, which closes a branch, or 0.1, which does not


def without_weights(encoder: str) -> str:
    """Returns the name of the same architecture with random weights, for an untrained control.

    Examples:
        >>> without_weights("timm/resnet18[pretrained=true;layer=layer3]")
        'timm/resnet18[layer=layer3]'
    """
    name, options = parse_spec(encoder)
    return format_spec(name, {key: value for key, value in options.items() if key not in STARTING_WEIGHTS})


def starts_from_weights(encoder: str) -> bool:
    """Whether the name of an encoder asks for published weights or for those of a file.

    Examples:
        >>> starts_from_weights("timm/resnet18[pretrained=true]"), starts_from_weights("timm/resnet18")
        (True, False)
    """
    options = parse_spec(encoder)[1]
    return options.get("pretrained") is True or WEIGHTS in options


def open_residual_branches(module: nn.Module) -> list[str]:
    """Gives the residual branches of a freshly drawn network their full scale, if their first scale is about zero.

    Many networks start training with residual blocks that return their input: the last normalization of the block has
    weights of 0 (`zero_init_last` of timm, `zero_init_residual` of torchvision, the residual post-norm of Swin V2), its
    last convolution has weights of 0, or the branch is multiplied by a parameter that starts at 0 (SkipInit, ReZero) or
    at 1e-4 or less (LayerScale). This helps training, which moves these parameters away from zero. But in a network
    that is never trained, the convolutions of these blocks have no effect, so it is a weak control. Here such a scale
    becomes 1, and the weights of such a layer are drawn again by its `reset_parameters`.

    Parameters at zero that do not close a branch are kept: biases, positions, and the weights of global response
    normalization, which returns its input if they are zero.

    Args:
        module: The network, which is changed in place.

    Returns:
        The names of the parameters that were changed.

    Examples:
        >>> block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        >>> _ = nn.init.zeros_(block[1].weight)
        >>> open_residual_branches(block), block[1].weight.tolist()
        (['1.weight'], [1.0, 1.0, 1.0, 1.0])
    """
    opened = closed_branches(module)
    with torch.no_grad():
        for name, part in opened.items():
            if isinstance(part, WEIGHTED) and name.endswith("weight"):  # and not the gain of a scaled convolution
                part.reset_parameters()
            else:
                module.get_parameter(name).fill_(1)
    return list(opened)


def closed_branches(module: nn.Module) -> dict[str, nn.Module]:
    """Returns the parameters that `open_residual_branches` changes, by name, with the parts that they belong to."""
    found = {}
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(prefix, recurse=False):
            kind = name.rpartition(".")[2]
            is_zero_weight = kind == "weight" and isinstance(part, NORMS + WEIGHTED) and not parameter.any()
            if is_zero_weight or (SCALE.fullmatch(kind) and _closes(parameter)):
                found[name] = part
    return found


def _closes(scale: Tensor) -> bool:
    """Whether a scalar or a vector has one value that is about zero."""
    is_vector = scale.numel() == max(scale.shape, default=1)
    return is_vector and bool((scale == scale.flatten()[0]).all()) and abs(scale.flatten()[0].item()) < CLOSED


@contextmanager
def measured_statistics(module: nn.Module) -> Iterator[Collection[nn.Module]]:
    """Measures the statistics of the BatchNorm layers that run in the block, and sets them when the block ends.

    A network that was never trained has a running mean of 0 and a running variance of 1, whatever its activations are.
    In the block, each batch is normalized by its own mean and variance, as in training. Afterward the running
    statistics are the mean and the unbiased variance of all values that a layer has got. Unlike a running average, or
    an average of the variances of the batches, this includes the variance between batches. The module stays in
    eval mode all the time, so dropout is not switched on.

    Args:
        module: The network. Its BatchNorm layers must keep running statistics; others are left as they are.

    Yields:
        The layers that have run so far.

    Examples:
        >>> norm = nn.BatchNorm1d(1).eval()
        >>> with torch.no_grad(), measured_statistics(norm):
        ...     _ = norm(torch.tensor([[1.0], [3.0]])), norm(torch.tensor([[8.0], [8.0]]))
        >>> norm.running_mean, norm.running_var
        (tensor([5.]), tensor([12.6667]))
    """
    totals: dict[nn.Module, tuple[int, Tensor, Tensor]] = {}

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().float()
        values = values[:, :, None] if values.dim() == 2 else values.flatten(2)  # (B, C, N)
        # In two passes, which is ten times as fast on a CPU as `var_mean`.
        mean = values.mean(dim=2).double().mean(dim=0)
        variance = (values - mean.to(values)[:, None]).square_().mean(dim=2).double().mean(dim=0)
        count = len(values) * values.shape[2]
        number, total, squares = totals.get(layer, (0, torch.zeros_like(mean), torch.zeros_like(mean)))
        totals[layer] = number + count, total + count * mean, squares + count * (variance + mean**2)
        _set_statistics(layer, count, mean, variance)

    hooks = [layer.register_forward_pre_hook(measure) for layer in batch_norms(module)]
    try:
        yield totals.keys()
    finally:
        for hook in hooks:
            hook.remove()
        for layer, (number, total, squares) in totals.items():
            mean = total / number
            _set_statistics(layer, number, mean, (squares / number - mean**2).clamp(min=0))


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Returns the BatchNorm layers of a module that keep running statistics."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]


def _set_statistics(layer: nn.Module, count: int, mean: Tensor, variance: Tensor) -> None:
    """Sets running statistics from the mean and the biased variance of `count` values."""
    running_mean, running_var = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    with torch.no_grad():
        running_mean.copy_(mean)
        running_var.copy_(variance * count / max(count - 1, 1))
