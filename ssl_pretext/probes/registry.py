"""The registry of probes, and how `evaluate` trains each of them."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from torch import nn

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.conv import ConvProbe
from ssl_pretext.probes.finetuning import FinetuneConfig, finetune
from ssl_pretext.probes.knn import KNN_CARD, KNNProbe, train_knn
from ssl_pretext.probes.linear import LINEAR_CARD, LinearProbe, train_linear
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.probes.resnet import ResNetProbe
from ssl_pretext.probes.segmentation import ConvMapProbe, LinearMapProbe
from ssl_pretext.probes.targets import KINDS, Kind
from ssl_pretext.probes.training import ProbeConfig, ProbeFactory, train_network
from ssl_pretext.registry import Option, Registry, parse_spec
from ssl_pretext.regularizers import REGULARIZERS
from ssl_pretext.representations.cache import is_library_code

__all__ = ["Method", "create_probe", "find_method", "list_probes", "register_probe"]

FINETUNE, EPOCHS_OF_FINETUNING = "finetune", 30
DINO = "dino_knn"  # Caron et al. 2021 (2104.14294): k = 20, temperature 0.07, no standardization
DOCUMENTED = "documented_conv"  # the conv probe as in the documented experiment, without standardized features


def _no_module(in_channels: int, num_classes: int) -> nn.Module:
    raise ArgumentError('fine-tuning trains a network and has no module of its own; use evaluate(probe="finetune")')


PROBES: Registry[nn.Module] = Registry("probe")
PROBES.register("conv")(ConvProbe)
PROBES.register(DOCUMENTED)(ConvProbe)
PROBES.register("linear")(LinearProbe)
PROBES.register("knn")(KNNProbe)
PROBES.register(DINO)(partial(KNNProbe, standardize=False))
PROBES.register("resnet")(ResNetProbe)
PROBES.register(FINETUNE)(_no_module)
MAP_PROBES: dict[str, ProbeFactory] = {"linear": LinearMapProbe, "conv": ConvMapProbe}
MAP_TRAINING = ProbeConfig(learning_rate=1e-2, batch_size=16)
LOSSES = {
    "class": "cross-entropy",
    "labels": "binary cross-entropy",
    "numbers": "squared error of standardized numbers",
    "mask": "cross-entropy of pixels",
    "map": "squared error of standardized numbers",
}


@dataclass(frozen=True)
class Method:
    """How a probe is trained and tested.

    Attributes:
        name: Name of the probe.
        train: Function from `(train, test, *, num_outputs, epochs, seed)` to an `Outcome`.
        card: The settings that determine the results of the probe.
        epochs: Default number of passes over the training images; 1 for probes that ignore it.
        pooled: Whether the probe averages feature maps to at most 9,216 features, so that larger maps are not stored.
        all_classes: Whether the probe has an output for each class, including those without training images, as the
            classifier of the documented experiment has.
        finetunes: Whether it trains the network itself; `train` then takes a representation first, and images in place
            of features.
        cacheable: Whether all code of the probe belongs to this library, so that finished probes can be cached.
    """

    name: str
    train: Callable[..., Outcome]
    card: Mapping[str, Any]
    epochs: int
    pooled: bool
    all_classes: bool
    cacheable: bool
    finetunes: bool = False


def find_method(
    probe: str | ProbeFactory, training: ProbeConfig | FinetuneConfig | None, kind: Kind = KINDS["class"]
) -> Method:
    """Finds out how a probe is trained and tested.

    Args:
        probe: A name of `list_probes()`, with options in brackets, or a function from `(in_channels, num_outputs)` to a
            module.
        training: Configuration of the training, for probes that are networks; a `FinetuneConfig` for `finetune`.
        kind: Kind of the targets.

    Raises:
        UnknownNameError: There is no probe of this name.
        ArgumentError: The probe does not take these options, these targets or no `training`, or an argument has the
            wrong type.
    """
    if not callable(probe) and not isinstance(probe, str):
        raise ArgumentError(
            f"probe must be one of {', '.join(list_probes())} or a function that creates a module, got {probe!r}"
        )
    name, options = parse_spec(probe) if isinstance(probe, str) else (getattr(probe, "__name__", "custom"), {})
    if isinstance(probe, str) and name == FINETUNE:
        if options:
            raise ArgumentError("finetune takes no options in brackets; pass epochs= and training= to evaluate()")
        if not isinstance(training, FinetuneConfig | None):
            raise ArgumentError(f"training of the {name} probe must be a FinetuneConfig, got {training!r}")
        return _finetuning(training or FinetuneConfig(), kind)
    if not isinstance(training, ProbeConfig | None):
        raise ArgumentError(f"training of the {name} probe must be a ProbeConfig, got {training!r}")
    if isinstance(probe, str):
        PROBES.create(probe, in_channels=1, num_classes=2)  # raises an error for unknown names and options
        if kind.has_pixels:
            return _map_method(name, training or MAP_TRAINING, kind)
        if name in ("linear", "knn", DINO):
            return _fitted_method(name, options, training, kind)
    training = training or ProbeConfig()
    if name == DOCUMENTED:
        training = replace(training, standardize=False)
    factory: ProbeFactory = (lambda i, n: create_probe(probe, i, n)) if isinstance(probe, str) else probe
    source = {} if isinstance(probe, str) else {"factory": _source(probe)}
    code = PROBES.factory(name) if isinstance(probe, str) else None
    return _network_method(probe if isinstance(probe, str) else name, factory, training, kind, code, source)


def _fitted_method(name: str, options: Mapping[str, Option], training: ProbeConfig | None, kind: Kind) -> Method:
    """The linear and the knn probe, which are not trained by gradient descent in epochs."""
    if training is not None:
        raise ArgumentError(
            f"training configures networks that are trained by AdamW, and the {name} probe is not one; leave it out"
        )
    if name == DINO:
        options = {"standardize": False, **options}
    train = train_linear if name == "linear" else partial(train_knn, **cast(dict[str, Any], options))
    return Method(
        name,
        partial(train, kind=kind),
        LINEAR_CARD if name == "linear" else {**KNN_CARD, **options},
        1,
        pooled=True,
        all_classes=False,
        cacheable=True,
    )


def _map_method(name: str, training: ProbeConfig, kind: Kind) -> Method:
    """The probes that predict a class or numbers for each pixel."""
    if name not in MAP_PROBES:
        raise ArgumentError(f"the {name} probe predicts no {kind.name}s; probes that do: {', '.join(MAP_PROBES)}")
    return _network_method(name, MAP_PROBES[name], training, kind, MAP_PROBES[name], {})


def _finetuning(training: FinetuneConfig, kind: Kind) -> Method:
    """Fine-tuning, which trains the network itself; its linear layer has an output for each class with images."""
    flips = "none" if kind.has_pixels else "horizontal flips"
    return Method(
        FINETUNE,
        partial(finetune, training=training, kind=kind),
        {**training.card(), "loss": LOSSES[kind.name], "augmentation": flips},
        EPOCHS_OF_FINETUNING,
        pooled=True,
        all_classes=False,
        cacheable=True,
        finetunes=True,
    )


def _network_method(
    name: str,
    factory: ProbeFactory,
    training: ProbeConfig,
    kind: Kind,
    code: Callable[..., nn.Module] | None,
    source: Mapping[str, Any],
) -> Method:
    """A probe that is a network; `code` is the function of this library that creates it, None for a user's."""
    regularizers = [REGULARIZERS.factory(parse_spec(spec)[0]) for spec in training.regularizers]
    return Method(
        name,
        partial(train_network, factory, training=training, kind=kind),
        {**training.card(), "loss": LOSSES[kind.name], **source},
        10,
        pooled=False,
        all_classes=kind.name == "class",
        cacheable=code is not None and is_library_code(code, *regularizers),
    )


def create_probe(probe: str, in_channels: int, num_classes: int, **options: Option) -> nn.Module:
    """Creates a probe by name.

    Args:
        probe: A name of `list_probes()`, with options in brackets such as `"knn[k=5]"`.
        in_channels: Number of channels of the features.
        num_classes: Number of classes.
        options: Further options of the probe.

    Raises:
        UnknownNameError: There is no probe of this name.
        ArgumentError: The probe does not take these options.

    Examples:
        >>> sum(parameter.numel() for parameter in create_probe("conv", 4, 101).parameters())
        326245
    """
    return PROBES.create(probe, in_channels=in_channels, num_classes=num_classes, **options)


def list_probes() -> list[str]:
    """Returns the names of the probes that `evaluate` takes; `create_probe` takes all but `finetune`."""
    return PROBES.names()


def register_probe(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Registers a function from `(in_channels, num_classes)` to a module under a name, as a decorator.

    `evaluate` trains the module with AdamW, as a `ProbeConfig` describes.

    Raises:
        ArgumentError: The name is already taken.
    """
    return PROBES.register(name)


def _source(factory: ProbeFactory) -> str:
    """Identifies a function in a probe card by its module, its name and a hash of its source, if it is available."""
    try:
        text = hashlib.sha256(inspect.getsource(factory).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        text = "source unknown"
    return f"{getattr(factory, '__module__', '')}.{getattr(factory, '__qualname__', repr(factory))} ({text})"
