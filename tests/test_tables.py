import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_pretext as sp
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError, DataError, MissingDependencyError, MissingFileError

DRAW = np.random.default_rng(0)
IMAGES = {f"deep/{name}.npy": DRAW.integers(0, 256, (3, 4, 4), dtype=np.uint8) for name in "abcdef"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images/deep").mkdir(parents=True)
    for name, pixels in IMAGES.items():
        np.save(tmp_path / "images" / name, pixels)
    return tmp_path / "images"


def opened(table, folder, **options):
    return ImageStore.from_table(table, folder, image_size=None, cache=folder.parent / "cache", **options)


def csv_of(folder, text, name="labels.csv"):
    (folder.parent / name).write_text(text, encoding="utf-8")
    return folder.parent / name


CSV = """file,label,group,split
deep/a.npy,dog,p1,train
deep/b.npy,cat,p1,train
deep/c.npy,,p2,train
deep/d.npy,dog,p3,test
"""


def check(store):
    """The store of `CSV`, whatever the form of the table."""
    assert store.names == [f"deep/{name}.npy" for name in "abcd"]
    assert (store.classes, store.labels.tolist()) == (["cat", "dog"], [1, 0, -1, 1])
    assert (store.groups, store.splits) == (["p1", "p1", "p2", "p3"], ["train", "train", "train", "test"])
    np.testing.assert_array_equal(store.images(), np.stack([IMAGES[name] for name in store.names]))
    train, test = store.split()
    assert (train.labels.tolist(), train.groups, test.names) == ([1, 0, -1], ["p1", "p1", "p2"], ["deep/d.npy"])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_file_has_the_labels_groups_and_splits(folder, separator, caplog):
    caplog.set_level("INFO", "ssl_pretext")
    check(opened(csv_of(folder, "\ufeff" + CSV.replace(",", separator)), folder))
    assert "labels.csv names 4 of the 6 images in" in caplog.text
    assert "1 of the 4 images that labels.csv names have no label" in caplog.text


def test_a_data_frame_a_mapping_and_a_parquet_file_are_tables_too(folder):
    pandas = pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    frame = pandas.read_csv(csv_of(folder, CSV))
    columns = {name: [None if value != value else value for value in frame[name]] for name in frame}
    parquet.write_table(pyarrow.table(columns), folder.parent / "labels.parquet")
    for table in (frame, columns, folder.parent / "labels.parquet", str(folder.parent / "labels.parquet")):
        check(opened(table, folder))
    (folder.parent / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="labels.parquet is not a Parquet file"):
        opened(folder.parent / "labels.parquet", folder)


def test_parquet_files_need_an_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder.parent / "labels.parquet").touch()
    with pytest.raises(MissingDependencyError, match=r"needs pyarrow: pip install 'ssl-pretext\[tables\]'"):
        opened(folder.parent / "labels.parquet", folder)


@pytest.mark.parametrize(
    "files", ["deep/a.npy deep/b.npy", "./deep/a deep\\b", "a.npy b.npy", "a b", "{}/deep/a.npy b"]
)
def test_files_may_be_named_without_folder_and_suffix(folder, files):
    store = opened({"file": files.format(folder).split(), "label": [1, 0]}, folder)
    assert store.names == ["deep/a.npy", "deep/b.npy"]
    assert store.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 10, 2], ["2", "9", "10"]),
        (np.array([1.0, np.nan, 0.0, 1.0]), ["0", "1"]),
        (["b", "10", "", "9"], ["10", "9", "b"]),
        ([True, False, True, True], ["False", "True"]),
        (["1.0", "1", "", "10."], ["1", "10"]),
        (["01", "1", "02", "1.5x"], ["01", "02", "1", "1.5x"]),
    ],
)
def test_classes_are_sorted_numbers_by_value(folder, labels, classes):
    store = opened({"file": list("abcd"), "label": labels}, folder)
    assert store.classes == classes
    known = [("" if value != value else re.sub(r"^(\d+)\.0*$", r"\1", str(value))) for value in list(labels)]
    assert [store.classes[label] if label >= 0 else "" for label in store.labels] == known


def test_names_of_several_labels_become_targets(folder):
    table = {"file": list("abcd"), "labels": ["sea|sky", "sky;", None, "sea ; sand"]}
    store = opened(table, folder, target="labels")
    expected = {"sand": [0, 0, np.nan, 1], "sea": [1, 0, np.nan, 1], "sky": [1, 1, np.nan, 0]}
    assert {*store.targets} == {*expected}
    for name, values in expected.items():
        np.testing.assert_array_equal(store.targets[name], values)
    with pytest.raises(ArgumentError, match="has the column labels, which is for several labels per image"):
        opened(table, folder)
    assert opened(table, folder, columns={"label": "labels"}).classes == ["sea ; sand", "sea|sky", "sky;"]


def test_columns_of_zero_and_one_become_targets(folder):
    table = csv_of(folder, "image,sea,sky\na,1,0\nb,0,\nc,True,0.0\n")
    columns = {"file": "image", "label": ["sky", "sea"]}
    store = opened(table, folder, target="labels", columns=columns)
    np.testing.assert_array_equal(store.targets["sea"], [1, 0, 1])
    np.testing.assert_array_equal(store.targets["sky"], [0, np.nan, 0])
    assert [*store.targets] == ["sky", "sea"]
    csv_of(folder, "image,sea,sky\na,1,0\nb,0,2\n")
    with pytest.raises(DataError, match=r"column sky of labels.csv must be 0 or 1, .* got '2' for deep/b.npy"):
        opened(table, folder, target="labels", columns=columns)


def test_numbers_become_targets_that_are_evaluated(folder):
    brightness = [float(pixels.mean()) for pixels in IMAGES.values()]
    table = {"file": list("abcdef"), "label": brightness, "split": ["train"] * 4 + ["test"] * 2}
    store = opened(table, folder, target="numbers")
    np.testing.assert_array_equal(store.targets["label"], brightness)
    options = {"target": "numbers", "probe": "knn[k=1]", "seeds": 2, "controls": False}
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, *store.split(), **options)
    pairs = [
        (torch.from_numpy(np.stack([*IMAGES.values()])[part]), brightness[part]) for part in (slice(4), slice(4, 6))
    ]
    assert report.values("pixels") == sp.evaluate({"pixels": sp.Pixels("rgb")}, *pairs, **options).values("pixels")
    with pytest.raises(DataError, match="column label of the table must be a finite number, got 'tall' for deep/b.npy"):
        opened({"file": list("ab"), "label": ["1", "tall"]}, folder, target="numbers")


def test_images_without_a_class_are_left_out_of_an_evaluation(folder):
    table = {"file": list("abcdef"), "label": ["x", "y", None, "x", "y", None]}
    store = opened(table, folder)
    options = {"probe": "knn[k=1]", "seeds": 2, "controls": False}
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, store, store, **options)
    assert report.card["train"]["images"] == 4
    known = store.subset([0, 1, 3, 4])
    assert report.values("pixels") == sp.evaluate({"pixels": sp.Pixels("rgb")}, known, known, **options).values(
        "pixels"
    )


def test_images_are_decoded_once_for_all_tables(folder, monkeypatch):
    every = ImageStore.from_folder(folder, image_size=None, labeled=False, cache=folder.parent / "cache")
    monkeypatch.setattr("ssl_pretext.data.build._build", None)
    for labels in (list("uvwxyz"), list("zyxwvu")):
        store = opened({"file": list("abcdef"), "label": labels}, folder)
        assert store.digests() == every.digests()
        assert [store.classes[label] for label in store.labels] == labels


def test_unreadable_images_do_not_shift_the_labels(folder):
    (folder / "deep/b.npy").write_text("no array")
    store = opened({"file": list("cba"), "label": [3, 2, 1]}, folder)
    assert store.names == ["deep/a.npy", "deep/c.npy"]
    assert [store.classes[label] for label in store.labels] == ["1", "3"]
    assert [item["name"] for item in store.skipped] == ["deep/b.npy"]


def test_a_table_names_images_of_a_pattern_or_their_files(folder):
    table = {"file": ["a", "deep/b.npy"], "label": ["x", "y"]}
    store = opened(table, folder, pattern="deep/{id}.npy")
    assert (store.names, store.labels.tolist()) == (["a", "b"], [0, 1])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "file,lable\na,1\n",
            "no column 'label'. Did you mean 'lable'\\? It has the columns file and lable; name the one",
        ),
        (
            "image,label\na,1\n",
            "no column 'file'. It has the columns image and label; name the one for the file: "
            "columns={'file': 'NAME'}, or --columns file=NAME on the command line",
        ),
        (
            "file,label\na,1\nz.jpg,2\ny.jpg,2\n",
            "labels.csv names 2 files that .* does not have .* such as z.jpg and y.jpg",
        ),
        ("file,label\nx.heic,1\n", r"such as x.heic \(it is not read without pillow-heif"),
        ("file,label\na,1\ndeep/a.npy,2\n", "names deep/a.npy twice, with different values of label; keep one"),
        (
            "file,label,group\na,1,x\nb,1,\n",
            "column group of labels.csv has no group for 1 of 2 images, such as deep/b.npy",
        ),
        (
            "file,label,split\na,1,latest\n",
            "column split of labels.csv must be train, val or test .* got latest for deep/a",
        ),
        ("file,label,split\na,1,\n", "must be train, val or test for each image, got nothing for deep/a.npy"),
        ("file,label\na,1.5\nb,1.50\n", "column label of labels.csv has the classes 1.5 and 1.50, which are the same"),
        ("file,label\na,\nb,\n", "column label of labels.csv is empty for all images"),
        ("file,label\n,1\n", "column file of labels.csv has no file in row 1"),
        ("file,label\na,1,2\n", "line 2 of .*labels.csv has 3 values for 2 columns; put text that contains"),
        ("file,file\na,1\n", "has two columns 'file'; rename one of them"),
        ('file,label\n"a"b,1\n', "line 2 of .*labels.csv is not CSV"),
        ("file,label\n", "labels.csv has no rows"),
        ("", "is empty; its first line must name the columns"),
    ],
)
def test_wrong_tables_are_refused(folder, text, error):
    with pytest.raises((ArgumentError, DataError), match=error):
        opened(csv_of(folder, text), folder)
    assert not (folder.parent / "cache").exists()


def test_files_may_have_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    os.symlink(folder, "link")
    link = Path("link").absolute()
    for given, name in [("images", folder), ("link", folder), (folder, folder), ("link", link), ("images", "images")]:
        table = {"file": [f"{name}/deep/a.npy", f"{name}/deep/b"], "label": [1, 2]}
        store = ImageStore.from_table(table, given, image_size=None, cache="cache")
        assert store.names == ["deep/a.npy", "deep/b.npy"]


def test_the_same_row_twice_is_one_image(folder):
    assert len(opened(csv_of(folder, "file,label\na,1\na,1\nb,2\n"), folder)) == 2


def test_a_name_of_two_images_is_refused(folder):
    (folder / "other").mkdir()
    np.save(folder / "other/a.npy", IMAGES["deep/a.npy"])
    with pytest.raises(
        DataError, match="names a.npy, which may be deep/a.npy and other/a.npy; write the path relative"
    ):
        opened({"file": ["a.npy"], "label": [1]}, folder)
    assert opened({"file": ["other/a"], "label": [1]}, folder).names == ["other/a.npy"]


def test_wrong_requests_are_refused(folder):
    table = {"file": ["a", "b"], "label": [0, 1], "x": [0, 1]}
    for options, message in (
        ({"target": "number"}, "target of a table must be class, labels or numbers, got 'number'"),
        (
            {"columns": {"lable": "x"}},
            "columns must name file, label, split or group, got 'lable'. Did you mean 'label'",
        ),
        ({"columns": {"label": ["x", "label"]}}, "one column has the class, but columns names x and label"),
        ({"columns": {"file": ["x", "file"]}}, "columns must name one column for the file, got"),
        ({"columns": {"label": []}}, "columns must name at least one column for the label"),
        ({"columns": {"group": "y"}}, "the table has no column 'y'. It has the columns file, label and x"),
    ):
        with pytest.raises(ArgumentError) as caught:
            opened(table, folder, **options)
        assert message in str(caught.value)
    for wrong, message in (
        (3, "a DataFrame or a mapping of columns, got int"),
        (
            "labels.xlsx",
            "a table must be a file named .csv, .tsv, .txt, .parquet or .pq, or a DataFrame, got labels.xlsx",
        ),
        ({"file": ["a"], "label": [0, 1]}, "one value per image; got the lengths {'file': 1, 'label': 2}"),
    ):
        with pytest.raises(ArgumentError) as caught:
            opened(wrong, folder)
        assert message in str(caught.value)
    with pytest.raises(MissingFileError, match="there is no table .*none.csv; check the path"):
        opened(folder / "none.csv", folder)
    (folder.parent / "latin.csv").write_bytes("file,label\na,\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not text in UTF-8 .*; save it as CSV in UTF-8"):
        opened(folder.parent / "latin.csv", folder)


def test_an_index_of_a_store_has_no_labels_of_a_table(folder):
    opened(csv_of(folder, CSV), folder)
    (index,) = (folder.parent / "cache").glob("*/index.json")
    assert json.loads(index.read_text())["classes"] == ["unlabeled"]
