"""What probes predict: a class, labels, numbers, a mask or a map; how each kind is checked, trained and scored."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.data.integers import MISSING
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import did_you_mean

__all__ = ["KINDS", "MISSING", "Kind", "Targets", "accuracy", "as_images_with_targets", "find_kind"]

VOID = 255


@dataclass(frozen=True)
class Kind:
    """A kind of target.

    Attributes:
        name: The name by which `evaluate` selects it.
        loss: Function from outputs of a network and targets to the mean loss, over the targets that are not missing.
        predict: Function from outputs of a network and targets to predictions, in the form that `metrics` takes.
        truth: Function from targets and their number of classes or values to true targets in this form.
        each: What each of the names of the targets names, such as a class.
        has_pixels: Whether there is a target for each pixel, which is predicted from feature maps.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor, Tensor], Tensor]
    truth: Callable[[Tensor, int], Tensor] = lambda targets, _: targets
    each: str = "class"
    has_pixels: bool = False

    def strata(self, values: Tensor) -> Tensor:
        """A group for each image, `(N,)`, for drawing images of each class; one group if there are no classes."""
        return values if self.name == "class" else torch.zeros(len(values), dtype=torch.int64)


@dataclass(frozen=True)
class Targets:
    """The targets of images.

    Attributes:
        kind: Kind of the targets.
        values: For `"class"`, the class of each image `(N,)`. For `"labels"`, 1 where a label applies and 0 where it
            does not, `(N, K)`. For `"numbers"`, `(N, K)` values. For `"mask"`, the class of each pixel, `(N, H, W)`.
            For `"map"`, K numbers for each pixel, `(N, K, H, W)`. Classes are int64 and `MISSING` where unknown;
            others are float64 (float32 for maps) and NaN where unknown.
        names: Names of the classes, labels, numbers or maps.
        missing: Number of images that were left out because all of their targets are missing.
    """

    kind: Kind
    values: Tensor
    names: list[str]
    missing: int = 0

    @property
    def strata(self) -> Tensor:
        """A group for each image, `(N,)`; see `Kind.strata`."""
        return self.kind.strata(self.values)

    @property
    def sha256(self) -> str:
        """A hash of kind, names and values."""
        head = "\t".join([self.kind.name, *self.names]).encode()
        return hashlib.sha256(head + self.values.numpy().tobytes()).hexdigest()

    def images_per_name(self, count: int) -> list[int]:
        """Counts the images of each of `count` classes, with each label, or where each number or map is known."""
        values = self.values
        if self.kind.name == "class":
            return values.bincount(minlength=count).tolist()
        if self.kind.name == "mask":
            has = _pixel_counts(values, count) > 0
        elif self.kind.name == "labels":
            has = values == 1
        else:
            has = ~values.isnan().flatten(2).all(dim=2) if self.kind.has_pixels else ~values.isnan()
        return has.sum(dim=0).tolist()

    def subset(self, indices: Tensor) -> "Targets":
        """Returns the targets of some images."""
        return Targets(self.kind, self.values[indices], self.names, self.missing)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Computes the fraction of images that are classified correctly, from logits `(N, K)` and labels `(N,)`."""
    return (logits.argmax(dim=1) == labels).double().mean().item()


def find_kind(name: object) -> Kind:
    """Returns a kind of target by name.

    Raises:
        ArgumentError: There is no such kind.
    """
    if not isinstance(name, str) or name not in KINDS:
        hint = did_you_mean(name, KINDS) if isinstance(name, str) else ""
        raise ArgumentError(f"target must be one of {', '.join(KINDS)}; got {name!r}.{hint}")
    return KINDS[name]


def as_images_with_targets(data: Any, kind: Kind) -> tuple[ImageStore, Targets]:
    """Converts the data that `evaluate` accepts to images and their targets; images without targets are left out.

    Args:
        data: A pair of images and targets, an `ImageStore` with them, or a dataset or a loader of samples with them.
            The images of a pair are an array `(N, C, H, W)`, an `ImageStore`, or a dataset or a loader. Its targets are
            an array in the form of `Targets.values`, or a mapping from names to arrays `(N,)`, such as a DataFrame, or
            to maps `(N, H, W)`.
        kind: Kind of the targets.

    Raises:
        ArgumentError: The data has another form, or no image has a target.
    """
    store, given, names = _split(data, kind)
    if isinstance(given, Mapping) or hasattr(given, "columns"):  # a DataFrame has columns, too
        columns = {str(name): np.asarray(given[name]) for name in given}
        if len({column.shape for column in columns.values()}) > 1:
            shapes = {name: column.shape for name, column in columns.items()}
            raise ArgumentError(f"all targets of a mapping must have one shape, with one entry per image; got {shapes}")
        names, given = list(columns), np.stack(list(columns.values()), axis=1)
    values = _check_values(given, kind)
    if len(store) != len(values):
        raise ArgumentError(
            f"there are {len(store)} images and {len(values)} targets; there must be one for each image"
        )
    known = ~values.isnan() if values.is_floating_point() else values != MISSING
    kept = known.flatten(1).any(dim=1) if known.dim() > 1 else known
    if len(kept) and not kept.any():
        raise ArgumentError("no image has a target that is not missing")
    if names is None and kind.name in ("class", "mask"):
        highest = int(values.max()) if values.numel() else MISSING
        names = [str(index) for index in range(max(highest + 1, 2 if kind.name == "mask" else 0))]
    if not kept.all():
        chosen = kept.nonzero().flatten()
        store, values = store.subset(chosen), values[chosen]
    names = [str(index) for index in range(values.shape[1])] if names is None else names
    return store, Targets(kind, values, names, int((~kept).sum()))


def _split(data: Any, kind: Kind) -> tuple[ImageStore, Any, list[str] | None]:
    """Splits data into images, targets and, if they are known, the names of the classes."""
    if isinstance(data, tuple) and len(data) == 2:
        images, targets = data
        is_array = isinstance(images, Tensor | np.ndarray)
        return ImageStore.from_arrays(images) if is_array else as_store(images, target=None), targets, None
    is_store, key = isinstance(data, ImageStore), kind.name if kind.has_pixels else "label"
    store = as_store(data, target=key)
    if kind.name == "class" and (store.targets is None or is_store):
        return store, store.labels, store.classes
    if store.targets is not None:
        return store, _as_masks(store.targets) if kind.name == "mask" and not is_store else store.targets, None
    if is_store:
        raise ArgumentError(
            f"the ImageStore has only classes; for target={kind.name!r}, pass a pair (images, targets), such as "
            "(store, numbers)"
        )
    if store.classes == ["unlabeled"]:
        raise ArgumentError(
            f"evaluate() needs targets, and the samples of {type(data).__name__} have none under {key!r}; name their "
            "key, as in Samples(dataset, target=...), or pass a pair (dataset, targets)"
        )
    return store, store.labels, None  # whole numbers that are no classes


def _as_masks(masks: Any) -> Any:
    """Converts masks of floats to integers, which is how MONAI reads them, if all their values are whole numbers."""
    whole = np.issubdtype(masks.dtype, np.floating) and (masks == np.floor(masks)).all()
    return masks.astype(np.int64) if whole else masks


def _check_values(given: Any, kind: Kind) -> Tensor:
    """Converts targets to a tensor of the kind's shape and dtype."""
    if not isinstance(given, Tensor):
        array = np.asarray(given)
        if array.dtype.kind not in "biuf":
            raise ArgumentError(f"targets must be numbers, got {array.dtype}")
        given = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    values: Tensor = given.detach().cpu()
    is_integer = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if (kind.name in ("labels", "numbers") and values.dim() == 1) or (kind.name == "map" and values.dim() == 3):
        values = values[:, None]
    if kind.name == "class" and not values.numel():
        values = values.long()  # an empty list has no type
        is_integer = True
    dimensions = {"class": 1, "labels": 2, "numbers": 2, "mask": 3, "map": 4}[kind.name]
    if values.dim() != dimensions or values.is_complex() or (kind.name in ("class", "mask") and not is_integer):
        forms = {
            "class": "whole numbers (N,), one class per image",
            "labels": "an array (N, K) of 0 and 1, with NaN where a label is unknown",
            "numbers": "an array (N,) or (N, K) of numbers, with NaN where one is unknown",
            "mask": f"whole numbers (N, H, W), the class of each pixel, with {MISSING} where it is unknown",
            "map": "an array (N, H, W) or (N, K, H, W) of numbers, with NaN where one is unknown",
        }
        raise ArgumentError(
            f"for target={kind.name!r}, targets must be {forms[kind.name]}; got {values.dtype} of shape "
            f"{tuple(values.shape)}"
        )
    if kind.name in ("class", "mask"):
        values = values.to(torch.int64)  # before it is compared, because uint8 has no negative numbers
        if kind.name == "mask":
            _check_void(values)
        if values.numel() and values.min() < MISSING:
            raise ArgumentError(f"classes must be counted from 0, or {MISSING} where unknown; got {values.min()}")
        return values
    values = values.float() if kind.has_pixels else values.double()  # maps are large
    if kind.name == "labels" and not ((values == 0) | (values == 1) | values.isnan()).all():
        raise ArgumentError("labels must be 0, 1 or NaN; for other numbers use target='numbers'")
    if values.isinf().any():
        raise ArgumentError("targets must be finite, or NaN where unknown")
    return values


def _check_void(classes: Tensor) -> None:
    """Raises for the class 255 if it can only mark unknown pixels, as in the masks of PASCAL VOC and Cityscapes."""
    found = classes.unique().tolist()
    if found and found[-1] == VOID and VOID - 1 not in found:
        raise ArgumentError(
            f"the classes contain {VOID}, which marks unknown pixels in many data sets, and not {VOID - 1}. Replace it "
            f"by {MISSING} if it does: masks[masks == {VOID}] = {MISSING}"
        )


def _class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets)


def _label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0).to(logits.dtype), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def _number_loss(logits: Tensor, targets: Tensor) -> Tensor:
    known = ~targets.isnan()
    return ((logits - targets.nan_to_num(0).to(logits.dtype)).square() * known).sum() / known.sum().clamp(min=1)


def _mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    loss = F.cross_entropy(_resized(logits, targets), targets, ignore_index=MISSING, reduction="sum")
    return loss / (targets != MISSING).sum().clamp(min=1)


def _map_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return _number_loss(_resized(outputs, targets), targets)


def _resized(logits: Tensor, targets: Tensor) -> Tensor:
    return F.interpolate(logits, targets.shape[-2:], mode="bilinear")


def _mask_predictions(logits: Tensor, targets: Tensor) -> Tensor:
    """The numbers of pixels of each class that are found and that are predicted, `(m, K, 2)`."""
    classes = logits.shape[1]
    known = targets != MISSING
    predicted = torch.where(known, _resized(logits, targets).argmax(dim=1), classes)
    found = torch.where(predicted == targets, predicted, classes)
    return torch.stack([_pixel_counts(maps, classes) for maps in (found, predicted)], dim=2)


def _pixel_counts(maps: Tensor, classes: int) -> Tensor:
    """The number of pixels of each class, `(m, K)`; other values count nothing."""
    flat = maps.flatten(1)
    flat = torch.where((flat >= 0) & (flat < classes), flat, classes)
    counts = torch.zeros(len(maps), classes + 1, dtype=torch.int64, device=maps.device)
    return counts.scatter_add(1, flat, torch.ones_like(flat))[:, :classes]


def _map_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum of the squared errors over the pixels that are known, `(m, K)`."""
    known = ~targets.isnan()
    errors = (_resized(outputs, targets) - targets.nan_to_num(0)).double()
    return (errors.square() * known).sum(dim=(2, 3))


def _map_moments(maps: Tensor, _: int) -> Tensor:
    """For each image, the number of known pixels, and the sum and the sum of squares of their values, `(m, K, 3)`.

    The mean over all images is subtracted from the values before, because squares of large values are inexact.
    """
    known = ~maps.isnan()
    values = maps.nan_to_num(0)
    mean = values.sum(dim=(0, 2, 3), dtype=torch.float64) / known.sum(dim=(0, 2, 3)).clamp(min=1)
    found = []
    for image, is_known in zip(values, known, strict=True):  # one at a time, because float64 takes twice the memory
        centered = (image.double() - mean[:, None, None]) * is_known
        sums = (is_known.double(), centered, centered.square())
        found.append(torch.stack([one.sum(dim=(1, 2)) for one in sums], dim=1))
    return torch.stack(found)


KINDS = {
    "class": Kind("class", _class_loss, lambda logits, _: logits.softmax(dim=1).float()),
    "labels": Kind("labels", _label_loss, lambda logits, _: logits.sigmoid(), each="label"),
    "numbers": Kind("numbers", _number_loss, lambda logits, _: logits, each="number"),
    "mask": Kind("mask", _mask_loss, _mask_predictions, _pixel_counts, has_pixels=True),
    "map": Kind("map", _map_loss, _map_errors, _map_moments, each="map", has_pixels=True),
}
