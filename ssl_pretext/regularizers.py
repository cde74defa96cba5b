"""Regularizers: penalties on an encoder's weights or features, which sit beside the losses of a task."""

from collections.abc import Callable, Mapping
from typing import Literal, cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import Registry, check_weights, duplicates, format_spec, parse_spec

__all__ = ["Regularizer", "WeightedRegularizers", "create_regularizer", "list_regularizers", "register_regularizer"]

Subject = Literal["weights", "features"]


class Regularizer(nn.Module):
    """A penalty on matrices: each weight of the encoder, or its features averaged over positions.

    Args:
        penalty: A matrix `(rows, columns)` to a scalar.
        on: `"weights"`: the mean penalty of the encoder's convolutions and linear layers, each as the matrix
            `(out, in)` with its kernel in the columns. `"features"`: that of the matrix `(B, C)` of pooled features.

    Raises:
        ArgumentError: `on` is another word.
    """

    spec: str = ""  # how create_regularizer makes it again

    def __init__(self, penalty: Callable[[Tensor], Tensor], on: Subject = "weights") -> None:
        super().__init__()
        if on not in ("weights", "features"):
            raise ArgumentError(f"a regularizer works on 'weights' or 'features', got on={on!r}")
        self.penalty, self.on = penalty, on

    def forward(self, encoder: nn.Module, features: Tensor) -> Tensor:
        """The penalty, a scalar; `features` are the encoder's `(B, C, h, w)`."""
        if self.on == "features":
            return self.penalty(reduce(features, "b c h w -> b c", "mean"))
        matrices = [
            rearrange(parameter, "o ... -> o (...)")
            for name, parameter in encoder.named_parameters()
            if parameter.dim() >= 2 and name.endswith("weight")
        ]
        if not matrices:
            raise ArgumentError(f"{type(encoder).__name__} has no weight matrices; regularize on=features instead")
        return torch.stack([self.penalty(matrix) for matrix in matrices]).mean()


REGULARIZERS: Registry[Regularizer] = Registry("regularizer")


def create_regularizer(regularizer: str) -> Regularizer:
    """Builds the regularizer that a spec stands for.

    Raises:
        UnknownNameError: There is no such regularizer.
        ArgumentError: It does not take these options.

    Examples:
        >>> create_regularizer("l2")(nn.Conv2d(1, 2, 3), torch.ones(4, 2, 8, 8)).dim()
        0
    """
    built = REGULARIZERS.create(regularizer)
    built.spec = format_spec(*parse_spec(regularizer))
    return built


def list_regularizers() -> list[str]:
    """Names that `create_regularizer` knows."""
    return REGULARIZERS.names()


def register_regularizer(name: str) -> Callable[[Callable[..., Regularizer]], Callable[..., Regularizer]]:
    """Files a `Regularizer` class or factory under a name, as a decorator."""
    return REGULARIZERS.register(name)


@register_regularizer("nuclear_norm")
def nuclear_norm(on: Subject = "weights") -> Regularizer:
    """The sum of the singular values, which favors matrices of low rank; costs a singular value decomposition."""
    return Regularizer(lambda matrix: torch.linalg.matrix_norm(matrix.float(), ord="nuc"), on)


@register_regularizer("l2")
def l2(on: Subject = "weights") -> Regularizer:
    """The sum of squares, known as kernel regularization where it is on weights."""
    return Regularizer(lambda matrix: matrix.float().square().sum(), on)


class WeightedRegularizers(nn.Module):
    """A weighted sum of regularizers.

    Args:
        regularizers: Weight of each, by spec.

    Raises:
        ArgumentError: They are no mapping, a weight is not positive, or two are the same.
    """

    def __init__(self, regularizers: Mapping[str, float]) -> None:
        super().__init__()
        check_weights("regularizer", "{'l2': 1e-4}", regularizers)
        self.parts = nn.ModuleList(create_regularizer(spec) for spec in regularizers)
        if twice := duplicates(cast(Regularizer, part).spec for part in self.parts):
            raise ArgumentError(f"the regularizer {twice[0]!r} is named twice; name it once")
        self.weights = [float(weight) for weight in regularizers.values()]

    @property
    def specs(self) -> dict[str, float]:
        """Weights by spec, as `WeightedRegularizers` takes them."""
        return {cast(Regularizer, part).spec: weight for part, weight in zip(self.parts, self.weights, strict=True)}

    def forward(self, encoder: nn.Module, features: Tensor) -> dict[str, Tensor]:
        """The weighted terms by name."""
        parts = zip(self.specs, self.parts, self.weights, strict=True)
        return {f"regularizer {spec}": weight * part(encoder, features) for spec, part, weight in parts}
