"""The contract of a saved task: what it is and what it was trained on, checked before anything is built of it."""

from pathlib import Path
from typing import Any

from ssl_pretext.config import check_regular, finite, hash_of_file, read_json, seal_holds, sealed, write_json
from ssl_pretext.errors import CheckpointError, MissingFileError

__all__ = ["CONTRACT_FILE", "FORMAT", "WEIGHTS_FILE", "read_contract", "write_contract"]

FORMAT = 1
CONTRACT_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
OF_WEIGHTS, OF_CONTRACT = "weights_sha256", "contract_sha256"
# By key; those of a hash are left out by older versions of this library.
TYPES: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "library_version": str,
    "task": str,
    "options": dict,
    "channel_spaces": list,
    "image_size": (int, list, type(None)),
    "resize": (str, type(None)),
    "pretraining": (dict, type(None)),
    OF_WEIGHTS: str,
    OF_CONTRACT: str,
}
MOST_BYTES = 2**22  # of the file; the largest that is known, of a hundred bands, has a thousandth of it
LARGEST_SIDE = 2**16


def write_contract(folder: Path, contract: dict[str, Any]) -> None:
    """Writes the contract beside the weights, with hashes of both: no change to them goes unnoticed."""
    whole = finite({"format": FORMAT, **contract, OF_WEIGHTS: hash_of_file(folder / WEIGHTS_FILE)})  # as it is written
    write_json(folder / CONTRACT_FILE, sealed(whole, OF_CONTRACT))


def read_contract(folder: Path) -> dict[str, Any]:
    """Reads the contract in a folder, if it is whole and the weights beside it are those that it was written with.

    Raises:
        MissingFileError: There is no contract, or there are no weights.
        CheckpointError: One of the two is damaged, or something else.
    """
    file, weights = folder / CONTRACT_FILE, folder / WEIGHTS_FILE
    contract = read_json(file, most_bytes=MOST_BYTES)
    if not isinstance(contract, dict) or contract.get("format") != FORMAT:
        raise CheckpointError(f"{file} is no contract of format {FORMAT} of ssl_pretext's tasks")
    if unknown := sorted(contract.keys() - TYPES.keys()):
        raise CheckpointError(f"the contract {file} holds {', '.join(unknown)}, which this version does not know")
    for key in ("task", "options", *contract):
        if key not in contract or not isinstance(contract[key], TYPES[key]) or isinstance(contract[key], bool):
            raise CheckpointError(f"the contract {file} is damaged: {key} is {contract.get(key, 'missing')!r:.80}")
    if not _is_size(contract.get("image_size")):
        raise CheckpointError(f"the contract {file} is damaged: image_size is {contract['image_size']!r:.80}")
    if OF_CONTRACT in contract and not seal_holds(contract, OF_CONTRACT):
        raise CheckpointError(
            f"the contract {file} is not as it was saved: it is damaged or was edited. Fetch or save it anew; after an "
            f"edit that is meant, take {OF_CONTRACT!r} out of it"
        )
    if not weights.exists():
        raise MissingFileError(f"{folder} has a contract but no {WEIGHTS_FILE}")
    check_regular(weights)
    try:
        changed = contract.get(OF_WEIGHTS, found := hash_of_file(weights)) != found
    except OSError as error:
        raise CheckpointError(f"the weights {weights} cannot be read: {error}") from error
    if changed:
        raise CheckpointError(
            f"the weights {weights} are not those that the contract was saved with: they are damaged or were replaced. "
            f"Fetch or save them anew; if they are meant, take {OF_WEIGHTS!r} and {OF_CONTRACT!r} out of {file}"
        )
    return contract


def _is_size(size: Any) -> bool:
    sides = size if isinstance(size, list) else [1 if size is None else size]
    return len(sides) in (1, 2) and all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides)
