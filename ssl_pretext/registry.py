"""One registry class for every pluggable kind: tasks, encoders, losses, probes.

A registered part is asked for by a *spec*, its name with options in brackets: `lpips[net=squeeze]`,
`smooth_l1[beta=0.5;domain=rgb]`. Specs are what configurations and checkpoints store.
"""

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = [
    "Option",
    "Registry",
    "check_option_types",
    "check_weights",
    "did_you_mean",
    "duplicates",
    "format_spec",
    "parse_spec",
    "split_specs",
]

T = TypeVar("T")
Option = bool | int | float | str
KINDS = {bool: "true or false", int: "a whole number", float: "a number, such as 0.5"}

_SPEC = re.compile(r"(?P<name>[^\[\]=,;\s]+)(?:\[(?P<options>[^\[\]]*)\])?")


class Registry(Generic[T]):
    """Named factories of one kind of part.

    Args:
        kind: What the parts are called in messages, such as `"loss"`.

    Examples:
        >>> losses = Registry("loss")
        >>> losses.register("zero")(lambda scale=1.0: 0.0 * scale)
        ... # doctest: +ELLIPSIS
        <function ...>
        >>> losses.create("zero[scale=2]")
        0.0
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Returns a decorator that files a factory (a class or function) under `name`; a taken name raises."""
        if not _SPEC.fullmatch(name) or "[" in name:
            raise ArgumentError(f"a {self.kind} name must be free of spaces and of '[]=,;', got {name!r}")

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._factories:
                raise ArgumentError(f"the {self.kind} {name!r} is registered already; choose another name")
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._factories)

    def factory(self, name: str) -> Callable[..., T]:
        """The factory behind `name`.

        Raises:
            UnknownNameError: Nothing is registered under it; the message shows the nearest and all names.
        """
        if name not in self._factories:
            raise UnknownNameError(
                f"there is no {self.kind} named {name!r}.{did_you_mean(name, self._factories)} Known: "
                f"{', '.join(self.names())}. Your own can be added with register_{self.kind}()."
            )
        return self._factories[name]

    def create(self, spec: str, **options: object) -> T:
        """Builds the part that `spec` names, with the options of the spec and of the call."""
        name, spelled = parse_spec(spec)
        factory = self.factory(name)
        if twice := sorted({*spelled} & {*options}):
            raise ArgumentError(f"{', '.join(twice)} of the {self.kind} {spec!r} is given twice, in it and beside it")
        check_option_types(f"the {self.kind} {name!r}", factory, {**spelled, **options})
        try:
            signature = _signature(factory)
            signature.bind(**spelled, **options)
        except TypeError as error:
            raise ArgumentError(
                f"the {self.kind} {name!r} does not take these options: {error}. It takes {_described(signature)}"
            ) from error
        except ValueError:
            pass  # a class written in C shows no signature
        return factory(**spelled, **options)


def _signature(factory: Callable[..., object]) -> inspect.Signature:
    """The signature of a function, or of a class's constructor without `self`, even if a mixin has a `__new__`."""
    if not inspect.isclass(factory):
        return inspect.signature(factory)
    signature = inspect.signature(factory.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _described(signature: inspect.Signature) -> str:
    """The names of the options, with the defaults of those that may be left out."""
    options = [
        option.name if option.default is option.empty else f"{option.name}={option.default!r}"
        for option in signature.parameters.values()
    ]
    return ", ".join(options) or "none"


def parse_spec(spec: str) -> tuple[str, dict[str, Option]]:
    """Splits a spec into its name and options.

    Examples:
        >>> parse_spec("lpips[net=squeeze;scale=0.5]")
        ('lpips', {'net': 'squeeze', 'scale': 0.5})
    """
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise ArgumentError(f"expected a name with options in brackets, such as 'lpips[net=squeeze]', got {spec!r}")
    options: dict[str, Option] = {}
    for pair in filter(None, re.split("[;,]", match["options"] or "")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ArgumentError(
                f"options are written name=value and parted by ';' or ',', which no value holds, got {pair!r} "
                f"in {spec!r}"
            )
        if key.strip() in options:
            raise ArgumentError(f"the option {key.strip()} is given twice in {spec!r}")
        options[key.strip()] = _parse_option(value.strip())
    return match["name"], options


def split_specs(text: str) -> list[str]:
    """Splits a list of specs at the commas that are not inside of brackets.

    Examples:
        >>> split_specs("linear, knn[k=5,temperature=0.1]")
        ['linear', 'knn[k=5,temperature=0.1]']
    """
    return [item.strip() for item in re.split(r",(?![^\[]*\])", text)]


def check_option_types(what: str, factory: Callable[..., object], options: Mapping[str, object]) -> None:
    """Refuses text where a factory is annotated to take a number or a truth value, such as `beta=1/110`.

    Raises:
        ArgumentError: An option is of another kind; the message says which, `what` in front.
    """
    try:
        parameters = _signature(factory).parameters
    except ValueError:
        return  # a class written in C shows no signature
    for key, value in options.items():
        wanted = parameters[key].annotation if key in parameters else None
        if wanted in KINDS and (isinstance(value, str) or (wanted is int and isinstance(value, float))):
            raise ArgumentError(f"{key} of {what} is {KINDS[wanted]}, got {value!r}")


def duplicates(names: Iterable[str]) -> list[str]:
    """Those that are there more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def format_spec(name: str, options: dict[str, Option]) -> str:
    """The inverse of `parse_spec`: `format_spec("lpips", {"net": "vgg"})` is `"lpips[net=vgg]"`.

    Raises:
        ArgumentError: A value would not be read back as it is: text that looks like a number, or holds a bracket.
    """
    if not options:
        return name
    spec = f"{name}[{';'.join(f'{key}={_format_option(value)}' for key, value in sorted(options.items()))}]"
    if parse_spec(spec) != (name, options):
        raise ArgumentError(f"the options {options} of {name!r} cannot be written as a spec; {spec!r} reads otherwise")
    return spec


def _format_option(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse_option(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence of an error message that names what may have been meant.

    Examples:
        >>> did_you_mean("resnet8", ["resnet18", "vgg11"])
        " Did you mean 'resnet18'?"
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def check_weights(kind: str, example: str, weights: object) -> None:
    """Refuses anything but a mapping from parts to positive finite numbers.

    Args:
        kind: What the parts are, such as `"loss"`.
        example: A mapping to show in the message, such as `"{'smooth_l1': 1.0}"`.
        weights: The weight of each part.

    Raises:
        ArgumentError: It is no mapping, or a weight is not a positive number.
    """
    if not isinstance(weights, Mapping):
        raise ArgumentError(f"a {kind} is given by name with its weight, such as {example}, got {weights!r}")
    for part, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ArgumentError(f"the weight of {kind} {part!r} must be a positive number, got {weight!r}")
