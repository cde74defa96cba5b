"""The registry class of all pluggable parts (tasks, encoders, losses, probes), and the specs that name a part.

A *spec* is the name of a registered part with options in brackets, such as `lpips[net=squeeze]` or
`smooth_l1[beta=0.5;domain=rgb]`. Configurations and checkpoints store specs.
"""

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    "joined",
    "parse_spec",
    "signature_of",
    "split_specs",
]

T = TypeVar("T")
Option = bool | int | float | str
KINDS = {bool: "true or false", int: "a whole number", float: "a number, such as 0.5"}

_SPEC = re.compile(r"(?P<name>[^\[\]=,;\s]+)(?:\[(?P<options>[^\[\]]*)\])?")


class Registry(Generic[T]):
    """Named factories of one kind of part.

    Args:
        kind: Name of the kind in messages, such as `"loss"`.

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
        """Returns a decorator that registers a factory (a class or function) under `name`.

        Raises:
            ArgumentError: The name is taken or empty, or contains a space or one of the characters `[]=,;`.
        """
        if not _SPEC.fullmatch(name) or "[" in name:
            raise ArgumentError(
                f"a {self.kind} name must not be empty or contain a space or any of '[]=,;', got {name!r}"
            )

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._factories:
                raise ArgumentError(f"the {self.kind} {name!r} is registered already; choose another name")
            self._factories[name] = factory
            return factory

        return add

    def __contains__(self, name: str) -> bool:
        return name in self._factories

    def names(self) -> list[str]:
        """Returns all registered names, sorted."""
        return sorted(self._factories)

    def factory(self, name: str) -> Callable[..., T]:
        """Returns the factory that is registered under `name`.

        Raises:
            UnknownNameError: No factory is registered under `name`; the message lists similar names and all names.
        """
        if name not in self._factories:
            raise UnknownNameError(
                f"there is no {self.kind} named {name!r}.{did_you_mean(name, self._factories)} Known: "
                f"{', '.join(self.names())}. Add your own with register_{self.kind}()."
            )
        return self._factories[name]

    def create(self, spec: str, **options: object) -> T:
        """Creates the part that `spec` names, with the options of the spec and of the call.

        Args:
            spec: Name of the part, with options in brackets.
            options: Further options, passed to the factory as they are.

        Raises:
            UnknownNameError: No part is registered under this name.
            ArgumentError: The spec is malformed, an option is given twice, or the part does not take the options.
        """
        name, spec_options = parse_spec(spec)
        factory = self.factory(name)
        if twice := sorted({*spec_options} & {*options}):
            raise ArgumentError(
                f"{', '.join(twice)} of the {self.kind} {spec!r} is given twice, in the spec and as a keyword; give it "
                "once"
            )
        check_option_types(f"the {self.kind} {name!r}", factory, {**spec_options, **options})
        try:
            signature = signature_of(factory)
            signature.bind(**spec_options, **options)
        except TypeError as error:
            raise ArgumentError(
                f"the {self.kind} {name!r} does not take these options: {error}. It takes {_option_list(signature)}"
            ) from error
        except ValueError:
            pass  # classes written in C have no signature to check
        return factory(**spec_options, **options)


def signature_of(factory: Callable[..., object]) -> inspect.Signature:
    """Returns the signature of a function, or of a class's `__init__` without `self`, even if it has a `__new__`."""
    if not inspect.isclass(factory):
        return inspect.signature(factory)
    signature = inspect.signature(factory.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _option_list(signature: inspect.Signature) -> str:
    """Lists the names of the options, with the defaults of the optional ones."""
    options = [
        option.name if option.default is option.empty else f"{option.name}={option.default!r}"
        for option in signature.parameters.values()
    ]
    return ", ".join(options) or "none"


def parse_spec(spec: str) -> tuple[str, dict[str, Option]]:
    """Splits a spec into its name and its options.

    Args:
        spec: A name, with options in brackets or without.

    Returns:
        The name, and the options by name. Their values are booleans, integers, floats or text.

    Raises:
        ArgumentError: The spec is malformed, or an option is given twice.

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
                f"options must be written name=value and separated by ';' or ',', which no value can contain; got "
                f"{pair!r} in {spec!r}"
            )
        if key.strip() in options:
            raise ArgumentError(f"the option {key.strip()} is given twice in {spec!r}; give it once")
        options[key.strip()] = _parse_option(value.strip())
    return match["name"], options


def split_specs(text: str) -> list[str]:
    """Splits a list of specs at the commas outside of brackets.

    Examples:
        >>> split_specs("linear, knn[k=5,temperature=0.1]")
        ['linear', 'knn[k=5,temperature=0.1]']
    """
    return [item.strip() for item in re.split(r",(?![^\[]*\])", text)]


def check_option_types(what: str, factory: Callable[..., object], options: Mapping[str, object]) -> None:
    """Checks that the factory's options annotated as numbers or booleans do not get text, such as `beta=1/110`.

    Args:
        what: Name of the part in the message, such as `"the loss 'smooth_l1'"`.
        factory: The function or class that takes the options.
        options: The options by name.

    Raises:
        ArgumentError: An option has another type than its annotation; the message names it.
    """
    try:
        parameters = signature_of(factory).parameters
    except ValueError:
        return  # classes written in C have no signature to check
    for key, value in options.items():
        wanted = parameters[key].annotation if key in parameters else None
        if wanted in KINDS and (isinstance(value, str) or (wanted is int and isinstance(value, float))):
            raise ArgumentError(f"{key} of {what} is {KINDS[wanted]}, got {value!r}")


def duplicates(names: Iterable[str]) -> list[str]:
    """Returns the names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def format_spec(name: str, options: dict[str, Option]) -> str:
    """Formats a name and its options as a spec; the inverse of `parse_spec`.

    Raises:
        ArgumentError: `parse_spec` would read an option differently, such as text that looks like a number or contains
            a bracket.

    Examples:
        >>> format_spec("lpips", {"net": "vgg"})
        'lpips[net=vgg]'
    """
    if not options:
        return name
    spec = f"{name}[{';'.join(f'{key}={_format_option(value)}' for key, value in sorted(options.items()))}]"
    if parse_spec(spec) != (name, options):
        raise ArgumentError(
            f"the options {options} of {name!r} cannot be written as a spec: {spec!r} has another meaning"
        )
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
    """Returns a sentence for an error message that suggests similar names; empty if there are none.

    Args:
        name: The unknown name.
        known: The names that exist.

    Examples:
        >>> did_you_mean("resnet8", ["resnet18", "vgg11"])
        " Did you mean 'resnet18'?"
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def joined(words: Sequence[str], conjunction: str = "and") -> str:
    """Joins one or more words for a sentence.

    Examples:
        >>> joined(["train", "val", "test"]), joined(["train"])
        ('train, val and test', 'train')
    """
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def check_weights(kind: str, example: str, weights: object) -> None:
    """Checks that `weights` is a mapping from parts to positive finite numbers.

    Args:
        kind: Kind of the parts in messages, such as `"loss"`.
        example: A valid mapping for the message, such as `"{'smooth_l1': 1.0}"`.
        weights: The weight of each part.

    Raises:
        ArgumentError: `weights` is not a mapping, or a weight is not a positive finite number.
    """
    if not isinstance(weights, Mapping):
        raise ArgumentError(f"each {kind} must be given by name with its weight, such as {example}, got {weights!r}")
    for part, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ArgumentError(f"the weight of {kind} {part!r} must be a positive number, got {weight!r}")
