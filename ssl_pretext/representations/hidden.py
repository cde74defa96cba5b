"""Finds the networks inside functions, which are not put in eval mode and have no untrained twin."""

import dis
from collections.abc import Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from ssl_pretext.representations.base import Representation

__all__ = ["hidden_networks"]

DEPTH = 6  # functions inside functions; deeper ones are not looked at


def hidden_networks(representation: Representation) -> list[nn.Module]:
    """Finds the networks that the functions of a representation use, as far as they can be seen.

    Networks are looked for in the variables of the functions: those of the surrounding functions, the global ones, the
    arguments of `functools.partial`, and the attributes of objects that are called.

    Examples:
        >>> network = nn.Conv2d(3, 8, 1)
        >>> hidden_networks(Representation("mine", lambda images: network(images.float())))
        [Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))]
    """
    backbones = [part.backbone for part in representation.parts]
    unknown = [one for one in backbones if one.module is None and one.describe is None]
    found: dict[nn.Module, None] = {}
    for backbone in unknown:
        _collect(backbone.feature_maps, found, set(), DEPTH)
    return list(found)


def _collect(value: Any, found: dict[nn.Module, None], seen: set[int], depth: int) -> None:
    if id(value) in seen or not depth:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        found[value] = None
        return
    for inner in _parts(value):
        _collect(inner, found, seen, depth - 1)


def _parts(value: Any) -> list[Any]:
    """What a function, an object or a collection consists of."""
    if isinstance(value, FunctionType):
        closure = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        used = [value.__globals__[name] for name in _global_names(value.__code__) if name in value.__globals__]
        # Functions of other packages are left out: those of libraries would lead to all of their networks.
        own = [one for one in used if not isinstance(one, FunctionType | type) or _package(one) == _package(value)]
        return [*closure, *own, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return []
    return list(vars(value).values()) if _may_run_a_network(value) else []


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that is not set yet
        return False


def _global_names(code: CodeType) -> list[str]:
    """The global variables that a function reads, also in the functions inside it."""
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _global_names(part)]
    return [*inner, *(str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")]


def _package(value: FunctionType | type) -> str:
    return str(value.__module__).partition(".")[0]


def _may_run_a_network(value: object) -> bool:
    methods = {"features", "feature_maps", "forward", "encode"}
    defined = {name for base in type(value).__mro__ for name in vars(base)}
    return not isinstance(value, ModuleType) and (callable(value) or bool(methods & defined))
