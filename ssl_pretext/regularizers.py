"""Regularizers: penalties on an encoder's weights or features that are added to the losses of a task."""

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
    """A penalty on matrices: the weights of an encoder, or its features averaged over positions.

    Args:
        penalty: Function from a matrix `(rows, columns)` to a scalar.
        on: Which matrices are penalized. `"weights"`: the weights of all convolutions and linear layers, each flattened
            to a matrix `(out, in)` with the kernel positions among the columns; the result is the mean of their
            penalties. `"features"`: the matrix `(B, C)` of average-pooled features.

    Raises:
        ArgumentError: `on` is neither of the two, or the encoder has no weight matrices.
    """

    spec: str = ""  # the spec that create_regularizer created the regularizer from

    def __init__(self, penalty: Callable[[Tensor], Tensor], on: Subject = "weights") -> None:
        super().__init__()
        if on not in ("weights", "features"):
            raise ArgumentError(f"on of a regularizer must be 'weights' or 'features', got {on!r}")
        self.penalty, self.on = penalty, on

    def forward(self, encoder: nn.Module, features: Tensor) -> Tensor:
        """Returns the penalty as a scalar.

        Args:
            encoder: The encoder whose weights are penalized.
            features: The output of the encoder, `(B, C, h, w)`.
        """
        if self.on == "features":
            return self.penalty(reduce(features, "b c h w -> b c", "mean"))
        matrices = [
            rearrange(parameter, "o ... -> o (...)")
            for name, parameter in encoder.named_parameters()
            if parameter.dim() >= 2 and name.endswith("weight")
        ]
        if not matrices:
            raise ArgumentError(
                f"the encoder {type(encoder).__name__} has no weight matrices to regularize; use on=features instead"
            )
        return torch.stack([self.penalty(matrix) for matrix in matrices]).mean()


REGULARIZERS: Registry[Regularizer] = Registry("regularizer")


def create_regularizer(regularizer: str) -> Regularizer:
    """Creates a regularizer from its spec.

    Args:
        regularizer: A name of `list_regularizers()`, with options in brackets, such as `"l2[on=features]"`.

    Raises:
        UnknownNameError: There is no regularizer of this name.
        ArgumentError: The regularizer does not take these options.

    Examples:
        >>> create_regularizer("l2")(nn.Conv2d(1, 2, 3), torch.ones(4, 2, 8, 8)).dim()
        0
    """
    created = REGULARIZERS.create(regularizer)
    created.spec = format_spec(*parse_spec(regularizer))
    return created


def list_regularizers() -> list[str]:
    """Returns the names that `create_regularizer` accepts, sorted."""
    return REGULARIZERS.names()


def register_regularizer(name: str) -> Callable[[Callable[..., Regularizer]], Callable[..., Regularizer]]:
    """Returns a decorator that registers a `Regularizer` class or factory under `name`."""
    return REGULARIZERS.register(name)


@register_regularizer("nuclear_norm")
def nuclear_norm(on: Subject = "weights") -> Regularizer:
    """The sum of a matrix's singular values, which favors low rank; it needs a singular value decomposition."""
    return Regularizer(_nuclear_norm, on)


@register_regularizer("l2")
def l2(on: Subject = "weights") -> Regularizer:
    """The sum of a matrix's squared entries; on weights it is known as kernel regularization."""
    return Regularizer(_sum_of_squares, on)


# Named functions instead of lambdas, because tasks are pickled for other processes.
def _nuclear_norm(matrix: Tensor) -> Tensor:
    return cast(Tensor, torch.linalg.matrix_norm(matrix.float(), ord="nuc"))


def _sum_of_squares(matrix: Tensor) -> Tensor:
    return matrix.float().square().sum()


class WeightedRegularizers(nn.Module):
    """A weighted sum of regularizers.

    Args:
        regularizers: Weight of each regularizer, by spec.

    Raises:
        ArgumentError: `regularizers` is not a mapping, a weight is not positive, or a regularizer is named twice.
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
        """The weight of each regularizer by its spec, as `WeightedRegularizers` takes them."""
        return {cast(Regularizer, part).spec: weight for part, weight in zip(self.parts, self.weights, strict=True)}

    def forward(self, encoder: nn.Module, features: Tensor) -> dict[str, Tensor]:
        """Returns the weighted penalties by name.

        Args:
            encoder: The encoder whose weights are penalized.
            features: The output of the encoder, `(B, C, h, w)`.
        """
        parts = zip(self.specs, self.parts, self.weights, strict=True)
        return {f"regularizer {spec}": weight * part(encoder, features) for spec, part, weight in parts}
