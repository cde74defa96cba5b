"""What `evaluate` can train on features, by name: networks, the linear probe, nearest neighbors."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from torch import nn

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.conv import ConvProbe
from ssl_pretext.probes.knn import KNN_CARD, KNNProbe, train_knn
from ssl_pretext.probes.linear import EPOCHS, LINEAR_CARD, LinearProbe, train_linear
from ssl_pretext.probes.resnet import ResNetProbe
from ssl_pretext.probes.training import ProbeConfig, ProbeFactory, train_network
from ssl_pretext.registry import Option, Registry, parse_spec
from ssl_pretext.regularizers import REGULARIZERS
from ssl_pretext.representations.cache import is_library_code

__all__ = ["Method", "create_probe", "find_method", "list_probes", "register_probe"]

PROBES: Registry[nn.Module] = Registry("probe")
PROBES.register("conv")(ConvProbe)
PROBES.register("linear")(LinearProbe)
PROBES.register("knn")(KNNProbe)
PROBES.register("resnet")(ResNetProbe)


@dataclass(frozen=True)
class Method:
    """How a probe is trained and judged.

    Attributes:
        name: Of the probe.
        train: `(train, test, *, classes, epochs, seed)` to a row per epoch and what was chosen on training images.
        card: What decides its figures.
        epochs: Its own number of passes.
        pooled: Whether it sees maps averaged to at most 9,216 features, so that larger ones need not be kept.
        all_classes: Whether it has outputs for classes without training images, as the documented head of 101 has.
        cacheable: Whether all its code is this library's, so that finished probes can be cached.
    """

    name: str
    train: Callable[..., tuple[list[dict[str, float]], dict[str, float]]]
    card: Mapping[str, Any]
    epochs: int
    pooled: bool
    all_classes: bool
    cacheable: bool


def find_method(probe: str | ProbeFactory, training: ProbeConfig | None) -> Method:
    """The method of a name of `list_probes()`, or of a function `(in_channels, num_classes)` to a module.

    Raises:
        UnknownNameError: There is no such probe.
        ArgumentError: It does not take these options, or `training`.
    """
    if not isinstance(training, ProbeConfig | None):
        raise ArgumentError(f"training is a ProbeConfig, got {training!r}")
    if not callable(probe) and not isinstance(probe, str):
        raise ArgumentError(f"a probe is a name of {list_probes()} or a function to a module, got {probe!r}")
    name, options = parse_spec(probe) if isinstance(probe, str) else (getattr(probe, "__name__", "custom"), {})
    if isinstance(probe, str) and name in ("linear", "knn"):
        if training is not None:
            raise ArgumentError(f"training is for probes trained by AdamW; the {name} probe has a way of its own")
        PROBES.create(probe, in_channels=1, num_classes=2)  # refuses options that it does not know
        if name == "linear":
            return Method(name, train_linear, LINEAR_CARD, EPOCHS, pooled=True, all_classes=False, cacheable=True)
        return Method(
            name,
            partial(train_knn, **cast(dict[str, Any], options)),
            KNN_CARD | options,
            1,
            pooled=True,
            all_classes=False,
            cacheable=True,
        )
    training = training or ProbeConfig()
    regularizers = [REGULARIZERS.factory(parse_spec(spec)[0]) for spec in training.regularizers]
    factory: ProbeFactory = (lambda i, n: create_probe(probe, i, n)) if isinstance(probe, str) else probe
    return Method(
        probe if isinstance(probe, str) else name,
        partial(train_network, factory, training=training),
        training.card() | ({} if isinstance(probe, str) else {"factory": _source(probe)}),
        10,
        pooled=False,
        all_classes=True,
        cacheable=isinstance(probe, str) and is_library_code(PROBES.factory(name), *regularizers),
    )


def create_probe(probe: str, in_channels: int, num_classes: int, **options: Option) -> nn.Module:
    """Builds a probe by name.

    Args:
        probe: A name of `list_probes()`.
        in_channels: Channels of the features it classifies.
        num_classes: Classes it tells apart.
        options: Options of the probe.

    Raises:
        UnknownNameError: There is no such probe.
        ArgumentError: It does not take these options.

    Examples:
        >>> sum(parameter.numel() for parameter in create_probe("conv", 4, 101).parameters())
        326245
    """
    return PROBES.create(probe, in_channels=in_channels, num_classes=num_classes, **options)


def list_probes() -> list[str]:
    """Names that `create_probe` knows."""
    return PROBES.names()


def register_probe(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Files a factory `(in_channels, num_classes)` under a name, as a decorator; `evaluate` trains it by AdamW."""
    return PROBES.register(name)


def _source(factory: ProbeFactory) -> str:
    """What tells a function from another of its name: where it is from, and a hash of its text where there is one."""
    try:
        text = hashlib.sha256(inspect.getsource(factory).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        text = "source unknown"
    return f"{getattr(factory, '__module__', '')}.{getattr(factory, '__qualname__', repr(factory))} ({text})"
