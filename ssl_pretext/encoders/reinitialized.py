"""Copies of modules with new random weights: what can be learned is drawn anew, and what is fixed is kept."""

import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ssl_pretext.encoders.copies import detached_copy
from ssl_pretext.encoders.untrained import NORMS
from ssl_pretext.errors import ArgumentError

__all__ = ["reinitialized"]

POWER_ITERATIONS = 15  # with which PyTorch's newer spectral_norm starts; the older one starts with none


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
    if left := [name for name, value in _saved(twin).items() if name not in fixed and not _is_new(value, drawn[name])]:
        raise ArgumentError(
            f"no untrained copy of {type(module).__name__} can be made, because its parts have no reset_parameters() "
            f"that draws {', '.join(left[:3])} anew, and it cannot be told whether these values were learned. Add this "
            "method; or declare what is fixed, parameters with requires_grad=False and buffers with persistent=False; "
            "or register a factory with register_encoder() and give the encoder by name"
        )
    learned = [name for name in sorted(norms) if not torch.equal(parameters[name].cpu(), twin.get_parameter(name))]
    if fixed and learned:
        raise ArgumentError(
            f"no untrained copy of {type(module).__name__} can be made: {learned[0]} is frozen but not as in a new "
            "norm, so a stage was trained and then frozen, and it cannot be told what else of the frozen parameters "
            f"was learned, such as {min(fixed)}. Call requires_grad_(True) of all parts that were trained"
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
