"""Untrained copies of encoders, which are used as controls and should therefore be hard to beat."""

import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ssl_pretext.encoders.copies import detached_copy
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import format_spec, parse_spec

__all__ = [
    "batch_norms",
    "closed_branches",
    "measured_statistics",
    "open_residual_branches",
    "reinitialized",
    "starts_from_weights",
    "without_weights",
]

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Names of the parameters that timm, torchvision and the papers' code multiply a residual branch by: LayerScale (Touvron
# et al. 2021, 2103.17239), SkipInit (De & Smith 2020, 2002.10444) and ReZero (Bachlechner et al. 2020, 2003.04887).
SCALE = re.compile(r"gamma(_\w+)?|\w*scale(_\d)?|\w*gain|ls\d?|resweight|rezero")
POWER_ITERATIONS = 15  # with which PyTorch's newer spectral_norm starts; the older one starts with none
CLOSED = 0.01  # initial values of LayerScale are at most 1e-4, which closes a branch, or 0.1, which does not


def without_weights(encoder: str) -> str:
    """Returns the name of the same architecture with random weights, for an untrained control.

    Examples:
        >>> without_weights("timm/resnet18[pretrained=true;layer=layer3]")
        'timm/resnet18[layer=layer3]'
    """
    name, options = parse_spec(encoder)
    return format_spec(name, {key: value for key, value in options.items() if key != "pretrained"})


def starts_from_weights(encoder: str) -> bool:
    """Whether the name of an encoder asks for published weights.

    Examples:
        >>> starts_from_weights("timm/resnet18[pretrained=true]"), starts_from_weights("timm/resnet18")
        (True, False)
    """
    return parse_spec(encoder)[1].get("pretrained") is True


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
        values = inputs[0].detach().transpose(0, 1).flatten(1)  # (C, N)
        variance, mean = (one.double() for one in torch.var_mean(values.float(), dim=1, correction=0))
        count = values.shape[1]
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


def reinitialized(module: nn.Module) -> nn.Module:
    """Returns a copy of a module in which everything that can be learned is drawn anew, and what is fixed is kept.

    New values come from the `reset_parameters` of the parts, which PyTorch's layers have. Weights under
    `torch.nn.utils.parametrizations`, or under the older `spectral_norm` and `weight_norm`, are drawn without them, and
    parametrized again.

    Fixed are parameters with `requires_grad=False` in a network that has others too, buffers with `persistent=False`,
    and integers. If all parameters are frozen, they count as learned, because trained networks are often frozen for
    evaluation. All else that is saved with the module must get values that do not depend on its present ones. This
    refuses, for example, codebooks in buffers, the masks of pruning, and quantized weights, of which nothing tells
    whether they were learned. Norms with values other than those of new norms are refused if they are frozen and other
    parameters are not, because they belong to a stage that was learned and then frozen.

    Args:
        module: The module to copy; it stays unchanged. The values are drawn on the CPU, so that they are the same
            wherever the module is.

    Raises:
        ArgumentError: A value that was possibly learned is not drawn anew, or the module cannot be copied.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    twin, other = (detached_copy(module).cpu() for _ in range(2))
    parameters = dict(module.named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    # A filter may be fixed, but a norm starts as an identity, and only learning changes it.
    norms = {name for name in frozen if isinstance(module.get_submodule(name.rpartition(".")[0]), NORMS)}
    fixed = frozen - norms if len(frozen) < len(parameters) else set()
    state = torch.get_rng_state()
    _draw(twin, fixed)
    # The same draw from other values: what is equal in both does not depend on the values.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name, value in _saved(other).items():
            if name not in fixed and _is_continuous(value):
                value.copy_(torch.rand(value.shape))
        torch.set_rng_state(state)
        _draw(other, fixed)
    drawn = _saved(other)
    left = [name for name, value in _saved(twin).items() if name not in fixed and not _is_new(value, drawn[name])]
    if fixed:
        left += [name for name in norms if not torch.equal(parameters[name].cpu(), twin.get_parameter(name))]
    if left:
        raise ArgumentError(
            f"no untrained copy of {type(module).__name__} can be made, because its parts have no reset_parameters() "
            f"that draws {', '.join(left[:3])} anew, and it cannot be told whether these values were learned. Add this "
            "method; or declare what is fixed, parameters with requires_grad=False and buffers with persistent=False; "
            "or register a factory with register_encoder() and give the encoder by name"
        )
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return twin.to(device)


def _saved(module: nn.Module) -> dict[str, Any]:
    """Returns all parameters, and everything else that is saved with a module, by name."""
    return {**module.state_dict(keep_vars=True), **dict(module.named_parameters())}


def _is_continuous(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _is_new(value: object, other: object) -> bool:
    """Whether a value was drawn anew, given what the same draw made of another value; integers count as fixed."""
    if _is_continuous(value) and isinstance(other, Tensor):
        return torch.equal(value, other)
    # Integers of 8 bits and objects that are not tensors hold quantized weights.
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.int16, torch.int32, torch.int64)


def _draw(module: nn.Module, fixed: Collection[str]) -> None:
    """Draws new parameters in place; submodules first, as in constructors, because a module may change their values."""
    kept = {name: parameter.detach().clone() for name, parameter in module.named_parameters() if name in fixed}
    for name, parameter in module.named_parameters():
        if _is_continuous(parameter):  # because frozen weights would lose their parametrization
            parameter.requires_grad_(name not in fixed)
    for part in reversed(list(module.modules())):
        own = [*part.parameters(recurse=False)]
        if parametrize.is_parametrized(part):
            own += part.get_submodule("parametrizations").parameters()
        if not own or any(parameter.requires_grad for parameter in own):
            _draw_part(part)
    with torch.no_grad():
        for name, value in kept.items():
            module.get_parameter(name).copy_(value)


def _draw_part(part: nn.Module) -> None:
    """Calls the `reset_parameters` of a part, without the parametrizations of its weights."""
    # PyTorch's attention and transformer have the method with an underscore.
    reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
    if callable(reset):
        put_back = [*_remove_parametrizations(part), *_remove_norm_hooks(part)]
        reset()
        for again in put_back:
            again()


def _remove_parametrizations(part: nn.Module) -> Iterator[Callable[[], object]]:
    """Removes the parametrizations of a part; yields functions that register them again, as for a new layer."""
    if not parametrize.is_parametrized(part):
        return
    # Removing deletes a property of the class, which a copy shares with the layer that it was copied from.
    kind = type(part)
    part.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
    for name, parametrizations in list(part.get_submodule("parametrizations").named_children()):
        parametrize.remove_parametrizations(part, name)

        def register(name: str = name, parametrizations: Any = parametrizations) -> None:
            for one in parametrizations:
                if isinstance(one, _SpectralNorm):  # its buffers belong to the old weights
                    one = _SpectralNorm(getattr(part, name), one.n_power_iterations, one.dim, one.eps)
                parametrize.register_parametrization(part, name, one, unsafe=parametrizations.unsafe)

        yield register


def _remove_norm_hooks(part: nn.Module) -> Iterator[Callable[[], object]]:
    """Removes the hooks of the older `spectral_norm` and `weight_norm`; yields functions that register them again."""
    for hook in list(part._forward_pre_hooks.values()):
        if isinstance(hook, SpectralNorm):
            nn.utils.remove_spectral_norm(part, hook.name)

            def normalize(hook: SpectralNorm = hook) -> None:
                SpectralNorm.apply(part, hook.name, hook.n_power_iterations, hook.dim, hook.eps)
                for _ in range(POWER_ITERATIONS):
                    hook.compute_weight(part, do_power_iteration=True)

            yield normalize
        elif isinstance(hook, WeightNorm):
            nn.utils.remove_weight_norm(part, hook.name)
            yield partial(_apply_weight_norm, part, hook)


def _apply_weight_norm(part: nn.Module, hook: WeightNorm) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that it is deprecated is the user's matter
        WeightNorm.apply(part, hook.name, hook.dim)
