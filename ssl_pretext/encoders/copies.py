"""Modules as they are given by users: copies that share nothing, and networks without the wrappers around them."""

import copy
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from ssl_pretext.errors import ArgumentError

__all__ = ["detached_copy", "unwrapped"]

M = TypeVar("M", bound=nn.Module)


class _DetachedTensors(TorchFunctionMode):
    """Lets `copy.deepcopy` copy computed tensors, which it refuses, because a graph cannot be copied with them."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def detached_copy(module: M) -> M:
    """Returns a copy of a module that shares no memory with it.

    A module may store computed tensors, such as its last output, or the normalized weight that the hook of
    `torch.nn.utils.spectral_norm` leaves in the layer. They are copied without their autograd graph.

    Args:
        module: The module to copy; it stays unchanged.

    Raises:
        ArgumentError: The module holds something that Python cannot copy, such as a lock or an open file.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> layer.last = layer(layer.weight)
        >>> detached_copy(layer).last.requires_grad
        False
    """
    try:
        with _DetachedTensors():
            return copy.deepcopy(module)
    except TypeError as error:
        raise ArgumentError(
            f"{type(module).__name__} cannot be copied: {error}. Create what cannot be copied, such as locks and open "
            "files, outside of the module, or define __deepcopy__() of the object that holds it"
        ) from error


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the network inside of `torch.compile`, `DataParallel`, `DistributedDataParallel` and `AveragedModel`.

    These wrappers put a prefix such as `_orig_mod.` or `module.` before the names of all weights, so weights that were
    saved with a wrapper would not fit the same network without it. All other modules are returned unchanged.

    Args:
        module: A network, in one or more wrappers or in none.

    Examples:
        >>> network = nn.Conv2d(1, 2, 3)
        >>> unwrapped(torch.compile(nn.DataParallel(network))) is network, unwrapped(network) is network
        (True, True)
    """
    while True:
        if isinstance(module, DataParallel | DistributedDataParallel | AveragedModel):
            module = cast(nn.Module, module.module)
        elif _is_compiled(module):
            module = cast(nn.Module, module._orig_mod)
        else:
            return module


def _is_compiled(module: nn.Module) -> bool:
    # The class is not imported, because that takes seconds; it is loaded if a module was compiled.
    return (type(module).__module__, type(module).__name__) == ("torch._dynamo.eval_frame", "OptimizedModule")
