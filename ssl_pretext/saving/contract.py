"""The contract of a saved task: its name, options and training, verified before the task is created."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
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

__all__ = [
    "CONTRACT_FILE",
    "FORMAT",
    "MAX_JSON_BYTES",
    "UPGRADE",
    "WEIGHTS_FILE",
    "TrainedOn",
    "check_format",
    "read_contract",
    "write_contract",
]

FORMAT = 2  # 1 was written by versions before the first release
UPGRADE = "upgrade it: pip install --upgrade ssl-pretext"
CONTRACT_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
WEIGHTS_HASH, CONTRACT_HASH = "weights_sha256", "contract_sha256"
FIELD_TYPES: dict[str, type] = {
    "format": int,
    "library_version": str,
    "task": str,
    "options": dict,
    "channel_spaces": list,
    "trained_on": dict,
    WEIGHTS_HASH: str,
    CONTRACT_HASH: str,
}
MAX_JSON_BYTES = 2**22  # a contract of a task with a hundred bands has about a thousandth of this
MAX_IMAGE_SIZE = 2**16


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The images and settings that a task was trained with; all fields are None before training.

    Attributes:
        image_size: Height and width of the training images in pixels, or `(H, W)` if they are not square.
        resize: How the images were resized, such as `"center crop"`.
        settings: The settings of the training and the number and hash of the images, as `fit` records them.
        initialized_from: Hash of the weights of another task that the training started from.
    """

    image_size: int | tuple[int, int] | None = None
    resize: str | None = None
    settings: Mapping[str, Any] | None = None
    initialized_from: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainedOn":
        """Creates the record from the values of `to_dict`, which may have been written as JSON in between.

        Raises:
            ValueError: A key is unknown or missing, or a value has the wrong type.
        """
        keys = [field.name for field in fields(cls)]
        if values.keys() != {*keys}:
            raise ValueError(f"trained_on needs the keys {', '.join(keys)}, got {', '.join(values)}")
        size, resize, settings, initialized_from = (values[key] for key in keys)
        size = tuple(size) if isinstance(size, list) else size
        if not _is_size(size):
            raise ValueError(f"image_size is {values['image_size']!r:.80}")
        if not isinstance(resize, str | None) or not isinstance(settings, dict | None):
            raise ValueError(f"resize is {resize!r:.80} and settings are {settings!r:.80}")
        if not isinstance(initialized_from, str | None):
            raise ValueError(f"initialized_from is {initialized_from!r:.80}")
        return cls(image_size=size, resize=resize, settings=settings, initialized_from=initialized_from)

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON-serializable values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def write_contract(folder: Path, contract: dict[str, Any]) -> None:
    """Writes a contract to the folder of the weights, with checksums of both, so that changes can be detected."""
    complete = finite_json({"format": FORMAT, **contract, WEIGHTS_HASH: file_sha256(folder / WEIGHTS_FILE)})
    write_json(folder / CONTRACT_FILE, with_checksum(complete, CONTRACT_HASH))


def read_contract(folder: Path) -> dict[str, Any]:
    """Reads the contract in a folder, and verifies the checksums of the contract and of the weights.

    Returns:
        The contract, in which `"trained_on"` is a `TrainedOn`.

    Raises:
        MissingFileError: The folder does not contain a contract, or does not contain weights.
        CheckpointError: The contract or the weights are damaged, were changed, or have a format that this version of
            the library does not read.
    """
    file, weights = folder / CONTRACT_FILE, folder / WEIGHTS_FILE
    contract = read_json(file, max_bytes=MAX_JSON_BYTES)
    if not isinstance(contract, dict) or type(contract.get("format")) is not int:
        raise CheckpointError(f"{file} is not the contract of a task that was saved by ssl_pretext")
    check_format(contract["format"], file, "pretrain and save the task again")
    if unknown := sorted(contract.keys() - FIELD_TYPES.keys()):
        raise CheckpointError(
            f"the contract {file} contains the keys {', '.join(unknown)}, which this version of ssl_pretext does not "
            f"know; {UPGRADE}, or save the task again"
        )
    for key, kind in FIELD_TYPES.items():
        if not isinstance(contract.get(key), kind) or isinstance(contract[key], bool):
            found = f"{contract[key]!r:.80}" if key in contract else "missing"
            raise CheckpointError(f"the contract {file} is damaged: {key} is {found}")
    if not checksum_matches(contract, CONTRACT_HASH):
        raise CheckpointError(
            f"the contract {file} has changed since it was saved: it is damaged or was edited. Download it again, or "
            "save the task again"
        )
    try:
        trained_on = TrainedOn.from_dict(contract["trained_on"])
    except ValueError as error:
        raise CheckpointError(f"the contract {file} is damaged: {error}") from error
    if not weights.exists():
        raise MissingFileError(f"{folder} contains a contract but no {WEIGHTS_FILE}")
    check_regular_file(weights)
    try:
        found = file_sha256(weights)
    except OSError as error:
        raise CheckpointError(f"the weights {weights} cannot be read: {error}") from error
    if contract[WEIGHTS_HASH] != found:
        raise CheckpointError(
            f"the weights {weights} are not those that the contract was saved with: they are damaged or were replaced. "
            "Download them again, or save the task again"
        )
    return contract | {"trained_on": trained_on}


def check_format(found: int, file: Path, remedy: str) -> None:
    """Refuses a file of another format than the one that this version of the library writes.

    Args:
        found: Format number in the file.
        file: The file, for the message.
        remedy: What to do if the file is older, for the message.

    Raises:
        CheckpointError: The format is another one.
    """
    if found < FORMAT:
        raise CheckpointError(f"{file} was written by an unreleased version of ssl_pretext; {remedy}")
    if found > FORMAT:
        raise CheckpointError(
            f"{file} has format {found}, but this version of ssl_pretext reads only format {FORMAT}; {UPGRADE}"
        )


def _is_size(size: Any) -> bool:
    """Whether a value from a contract is a valid `image_size`."""
    numbers = size if isinstance(size, tuple) else [1 if size is None else size]
    return len(numbers) in (1, 2) and all(type(number) is int and 1 <= number <= MAX_IMAGE_SIZE for number in numbers)
