"""The contract of a saved task: what it is and what it was trained on, checked before anything is built of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_pretext.errors import CheckpointError, MissingFileError
from ssl_pretext.system.files import (
    check_regular_file,
    checksum_matches,
    file_sha256,
    finite_json,
    read_json,
    with_checksum,
    write_json,
)

__all__ = ["CONTRACT_FILE", "MOST_BYTES", "WEIGHTS_FILE", "TrainedOn", "read_contract", "write_contract"]

FORMAT = 2  # 1 was written by versions before the first release
CONTRACT_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
OF_WEIGHTS, OF_CONTRACT = "weights_sha256", "contract_sha256"
TYPES: dict[str, type] = {
    "format": int,
    "library_version": str,
    "task": str,
    "options": dict,
    "channel_spaces": list,
    "trained_on": dict,
    OF_WEIGHTS: str,
    OF_CONTRACT: str,
}
MOST_BYTES = 2**22  # of the file; the largest that is known, of a hundred bands, has a thousandth of it
LARGEST_SIDE = 2**16


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a task was trained on; everything is None before it is trained.

    Attributes:
        image_size: Side of the training images in pixels, or `(H, W)` if they are not square.
        resize: How the images were resized.
        settings: The settings of the training and the hash of the images, as `fit` records them.
    """

    image_size: int | tuple[int, int] | None = None
    resize: str | None = None
    settings: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainedOn":
        """Reads what `to_dict` returned, also after it has been written as JSON.

        Raises:
            ValueError: A key is unknown or missing, or a value is of another type.
        """
        if values.keys() != {"image_size", "resize", "settings"}:
            raise ValueError(f"trained_on has the keys {', '.join(values)}")
        size, resize, settings = values["image_size"], values["resize"], values["settings"]
        size = tuple(size) if isinstance(size, list) else size
        if not _is_size(size):
            raise ValueError(f"image_size is {values['image_size']!r:.80}")
        if not isinstance(resize, str | None) or not isinstance(settings, dict | None):
            raise ValueError(f"resize is {resize!r:.80} and settings are {settings!r:.80}")
        return cls(image_size=size, resize=resize, settings=settings)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, JSON-ready."""
        return {"image_size": self.image_size, "resize": self.resize, "settings": self.settings}


def write_contract(folder: Path, contract: dict[str, Any]) -> None:
    """Writes the contract beside the weights, with checksums of both, so that any change to them is noticed."""
    whole = finite_json({"format": FORMAT, **contract, OF_WEIGHTS: file_sha256(folder / WEIGHTS_FILE)})
    write_json(folder / CONTRACT_FILE, with_checksum(whole, OF_CONTRACT))


def read_contract(folder: Path) -> dict[str, Any]:
    """Reads the contract in a folder, and verifies it and the weights beside it.

    Returns:
        The contract, whose `"trained_on"` is a `TrainedOn`.

    Raises:
        MissingFileError: The folder has no contract, or no weights.
        CheckpointError: One of the two is damaged, or is something else.
    """
    file, weights = folder / CONTRACT_FILE, folder / WEIGHTS_FILE
    contract = read_json(file, most_bytes=MOST_BYTES)
    if not isinstance(contract, dict) or type(contract.get("format")) is not int:
        raise CheckpointError(f"{file} is not the contract of a task that ssl_pretext saved")
    if contract["format"] < FORMAT:
        raise CheckpointError(
            f"{file} was made by an unreleased version of ssl_pretext; pretrain and save the task again"
        )
    if contract["format"] > FORMAT:
        raise CheckpointError(
            f"{file} has format {contract['format']}, and this version reads {FORMAT}; update ssl_pretext"
        )
    if unknown := sorted(contract.keys() - TYPES.keys()):
        raise CheckpointError(f"the contract {file} holds {', '.join(unknown)}, which this version does not know")
    for key, kind in TYPES.items():
        if not isinstance(contract.get(key), kind) or isinstance(contract[key], bool):
            raise CheckpointError(f"the contract {file} is damaged: {key} is {contract.get(key, 'missing')!r:.80}")
    if not checksum_matches(contract, OF_CONTRACT):
        raise CheckpointError(
            f"the contract {file} has changed since it was saved: it is damaged or was edited. Download it or save the "
            "task again"
        )
    try:
        trained_on = TrainedOn.from_dict(contract["trained_on"])
    except ValueError as error:
        raise CheckpointError(f"the contract {file} is damaged: {error}") from error
    if not weights.exists():
        raise MissingFileError(f"{folder} has a contract but no {WEIGHTS_FILE}")
    check_regular_file(weights)
    try:
        found = file_sha256(weights)
    except OSError as error:
        raise CheckpointError(f"the weights {weights} cannot be read: {error}") from error
    if contract[OF_WEIGHTS] != found:
        raise CheckpointError(
            f"the weights {weights} are not those that the contract was saved with: they are damaged or were replaced. "
            "Download them or save the task again"
        )
    return contract | {"trained_on": trained_on}


def _is_size(size: Any) -> bool:
    sides = size if isinstance(size, tuple) else [1 if size is None else size]
    return len(sides) in (1, 2) and all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides)
