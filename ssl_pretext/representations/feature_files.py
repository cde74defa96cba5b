"""Files of feature vectors with names and labels: .npy with a table beside it, Parquet and HDF5."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError, MissingFileError
from ssl_pretext.system.files import atomic_write

__all__ = ["FORMATS", "FeatureBlock", "check_format", "names_file", "read_features", "write_features"]

FORMATS = (".npy", ".parquet", ".h5")


class FeatureBlock(NamedTuple):
    """Feature vectors of some images, `(n, F)` in float32, with their names and perhaps their labels."""

    features: NDArray[np.float32]
    names: list[str]
    labels: list[str] | None


def check_format(path: Path) -> str:
    """Returns the suffix of a file of features, after checking that the file can be written.

    Raises:
        ArgumentError: The suffix is not one of `FORMATS`.
        MissingDependencyError: The package that writes the format is not installed.
    """
    if path.suffix not in FORMATS:
        raise ArgumentError(f"features are written to a file that ends in {', '.join(FORMATS)}; got {path}")
    if path.suffix != ".npy":
        (_import_pyarrow if path.suffix == ".parquet" else _import_h5py)()
    return path.suffix


def names_file(path: Path) -> Path:
    """Returns the path of the table of names and labels that belongs to an .npy file of features."""
    return path.with_suffix(".names.csv")


def write_features(path: Path, blocks: Iterable[FeatureBlock], *, count: int, width: int, labeled: bool) -> None:
    """Writes blocks of features to a file, one after the other, so that they need not fit into memory together.

    An .npy file holds the features `(N, F)`, and a table beside it, `.names.csv`, has a row `file,label` for each.
    A Parquet file has the columns `file`, `label` and `features`, and an HDF5 file has data sets of these names.
    Without labels, there is no `label`.

    Args:
        path: Path of the file; its suffix selects the format.
        blocks: The blocks, in order.
        count: Number of images in all blocks.
        width: Number of features of an image.
        labeled: Whether the blocks have labels.

    Raises:
        ArgumentError: The suffix is not one of `FORMATS`.
        MissingDependencyError: The package that writes the format is not installed.
        StorageError: The file cannot be written. The previous file, if any, is unchanged.
    """
    suffix = check_format(path)
    with atomic_write(path, needed=4 * count * width) as part:
        if suffix == ".npy":
            with atomic_write(names_file(path)) as names:
                _write_npy(part, names, blocks, (count, width), labeled)
        elif suffix == ".parquet":
            _write_parquet(part, blocks, width, labeled)
        else:
            _write_h5(part, blocks, (count, width), labeled)


def read_features(path: Path) -> FeatureBlock:
    """Reads a file that `write_features` wrote; the features of an .npy file are memory-mapped.

    Args:
        path: Path of the file.

    Raises:
        ArgumentError: The suffix is not one of `FORMATS`.
        MissingFileError: The file, or the table beside an .npy file, does not exist.
        CheckpointError: The file holds something else.
    """
    suffix = check_format(path)
    for file in (path, *([names_file(path)] if suffix == ".npy" else [])):
        if not file.exists():
            raise MissingFileError(f"there is no file {file} of features; write it with Embeddings.save()")
    try:
        block = {".npy": _read_npy, ".parquet": _read_parquet, ".h5": _read_h5}[suffix](path)
    except (KeyError, ValueError, OSError, IndexError) as error:
        raise CheckpointError(f"{path} does not hold features as Embeddings.save() writes them: {error}") from error
    if block.features.ndim != 2 or len(block.features) != len(block.names):
        raise CheckpointError(
            f"{path} does not hold one row of features for each name: their shape is {block.features.shape}, and there "
            f"are {len(block.names)} names"
        )
    return block


def _write_npy(path: Path, names: Path, blocks: Iterable[FeatureBlock], shape: tuple[int, int], labeled: bool) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file, names.open("w", newline="", encoding="utf-8", errors="backslashreplace") as table:
        np.lib.format.write_array_header_1_0(file, header)
        rows = csv.writer(table)
        rows.writerow(["file", "label"] if labeled else ["file"])
        for block in blocks:
            file.write(np.ascontiguousarray(block.features, dtype="<f4").data)
            rows.writerows(zip(block.names, *([block.labels] if block.labels else []), strict=True))


def _read_npy(path: Path) -> FeatureBlock:
    with names_file(path).open(newline="", encoding="utf-8") as file:
        header, *table = csv.reader(file)
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    labels = [row[1] for row in table] if "label" in header else None
    return FeatureBlock(features, [row[0] for row in table], labels)


def _write_parquet(path: Path, blocks: Iterable[FeatureBlock], width: int, labeled: bool) -> None:
    pyarrow, parquet = _import_pyarrow()
    text = [("file", pyarrow.string()), *([("label", pyarrow.string())] if labeled else [])]
    schema = pyarrow.schema([*text, ("features", pyarrow.list_(pyarrow.float32(), width))])
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks:
            flat = pyarrow.array(np.ascontiguousarray(block.features).ravel(), pyarrow.float32())
            values = [_texts(block.names), *([_texts(block.labels)] if block.labels else [])]
            features = pyarrow.FixedSizeListArray.from_arrays(flat, width)
            writer.write_table(pyarrow.table([*map(pyarrow.array, values), features], schema=schema))


def _read_parquet(path: Path) -> FeatureBlock:
    _, parquet = _import_pyarrow()
    table = parquet.read_table(path)
    column = table.column("features").combine_chunks()
    features = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
    labels = table.column("label").to_pylist() if "label" in table.column_names else None
    return FeatureBlock(features, table.column("file").to_pylist(), labels)


def _write_h5(path: Path, blocks: Iterable[FeatureBlock], shape: tuple[int, int], labeled: bool) -> None:
    h5py = _import_h5py()
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", shape, dtype="<f4")
        texts = {
            name: file.create_dataset(name, shape[:1], dtype=h5py.string_dtype())
            for name in ("file", *(["label"] if labeled else []))
        }
        start = 0
        for block in blocks:
            stop = start + len(block.names)
            features[start:stop] = block.features
            texts["file"][start:stop] = _texts(block.names)
            if block.labels:
                texts["label"][start:stop] = _texts(block.labels)
            start = stop


def _read_h5(path: Path) -> FeatureBlock:
    with _import_h5py().File(path, "r") as file:
        names, labels = (list(file[key].asstr()[:]) if key in file else None for key in ("file", "label"))
        return FeatureBlock(file["features"][:], names or [], labels)


def _texts(texts: Sequence[str]) -> list[str]:
    """Escapes bytes of file names that are not UTF-8, which these formats cannot hold."""
    return [text.encode("utf-8", "backslashreplace").decode() for text in texts]


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("Parquet files need pyarrow: pip install 'ssl-pretext[tables]'") from error
    return pyarrow, pyarrow.parquet


def _import_h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("HDF5 files need h5py: pip install 'ssl-pretext[arrays]'") from error
    return h5py
