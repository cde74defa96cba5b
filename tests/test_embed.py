"""The command `embed`, run in this process on folders of a few small photos."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from cli_runs import cli_folder, error_line, interrupt  # noqa: F401 (cli_folder is a fixture)

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.representations import Embeddings

pytestmark = pytest.mark.usefixtures("cli_folder")


def test_embed_writes_features_names_labels_and_a_card(capsys):
    request = ["embed", "run", "--data", "labeled", "--out", "out/f.npy", "--device", "cpu"]
    assert main(request) == 0
    assert "out/f.npy: 18 images with 4 features" in capsys.readouterr().out
    store = sp.ImageStore.from_folder("labeled", image_size=16)
    expected = sp.PretextTask.from_pretrained("run").features(store.images()).detach().numpy().mean(axis=(2, 3))
    with Path("out/f.names.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "label"]
    assert [label for _, label in rows] == [Path(name).parent.name for name, _ in rows]
    order = [[name for name, _ in rows].index(name) for name in store.names]
    np.testing.assert_allclose(np.load("out/f.npy")[order], expected, rtol=1e-4, atol=1e-5)
    card = json.loads(Path("out/f.npy.json").read_text())
    assert (card["images"], card["features"], card["skipped"]) == (18, 4, [])
    assert card["options"]["network"] == "run"
    assert main(request) == 0
    assert "nothing is computed again" in capsys.readouterr().out
    assert "exists and holds other features" in error_line(capsys, *request, "--pooling", "map")


def test_embed_reads_a_layer_of_a_published_network_and_draws_a_map(capsys):
    assert main(["embed", "timm/resnet10t:layer1", "--data", "photos", "--out", "net.parquet", "--image-size", "32",
                 "--map", "--device", "cpu"]) == 0  # fmt: skip
    output = capsys.readouterr().out
    assert "net.parquet: 18 images with 64 features; unreadable and skipped: 1" in output
    assert "map: net.map.html" in output
    assert Path("net.map.html").read_text().count("<circle ") == 18
    assert {*Embeddings.load("net.parquet").labels} == {"astronaut", "chelsea", "china"}
    (skipped,) = json.loads(Path("net.parquet.json").read_text())["skipped"]
    assert skipped["name"] == "broken.jpg"


def test_embed_takes_labels_from_a_table_and_options_from_a_file(capsys):
    Path("flat").mkdir()
    rows = ["image,what"]
    for i, path in enumerate(sorted(Path("labeled").rglob("*.png"))[:4]):
        shutil.copy(path, f"flat/{i}.png")
        rows.append(f"{i},kind {i % 2}")
    Path("flat.csv").write_text("\n".join(rows))
    Path("embed.yaml").write_text("data: flat\nlabels: flat.csv\ncolumns: file=image,label=what\nout: flat.h5\n")
    assert main(["embed", "run", "--config", "embed.yaml", "--map", "tsne"]) == 0
    assert capsys.readouterr().out.count("flat.csv names") == 1, "it is read once"
    found = Embeddings.load("flat.h5")
    assert (found.names, found.labels) == ([f"{i}.png" for i in range(4)], [f"kind {i % 2}" for i in range(4)])
    assert "t-SNE keeps neighbors together" in Path("flat.map.html").read_text()
    Path("wrong.yaml").write_text("network: run\n")
    assert "contains network, which embed does not have" in error_line(capsys, "embed", "run", "--config", "wrong.yaml")


def test_embed_streams_shards():
    with tarfile.open("0.tar", "w") as archive:
        for i, path in enumerate(sorted(Path("labeled").rglob("*.png"))[:5]):
            archive.add(path, f"{i}.png")
    assert main(["embed", "run", "--data", "0.tar", "--out", "shards.npy", "--map"]) == 0
    assert Embeddings.load("shards.npy").names == [f"0.tar/{i}.png" for i in range(5)]
    assert Path("shards.map.html").read_text().count("<circle ") == 5


def test_embed_says_how_to_continue_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.representations.embedding_run.embed_block", interrupt)
    message = error_line(capsys, "embed", "run", "--data", "labeled", "--out", "stopped.npy", code=130)
    assert "The same command continues; blocks that were finished are not computed again." in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --data labeled --out new.txt", "features are written to a file that ends in .npy, .parquet, .h5"),
        ("resnet18 --data labeled --out new.npy", "no network of this name. Did you mean 'timm/resnet18' or 'torchv"),
        ("nowhere --data labeled --out new.npy", "there is no folder nowhere with a saved task, and no network of"),
        ("run:layer9 --data labeled --out new.npy", "has no layer 'layer9'; its layers:"),
        ("run --data nowhere --out new.npy", "there is no data folder nowhere"),
        ("run --data labeled --out new.npy --pooling mean", "pooling must be one of map, gap, cls, gap+cls"),
        ("run --data labeled --out new.npy --columns file=a", "--columns is for the table of --labels"),
        ("run --data labeled --out new.npy --image-field png", "--image-field is for shards only"),
        (
            "run --data {0..1}.tar --out new.npy --tile 8",
            "are for folders only, and {0..1}.tar are shards",
        ),
        ("run --data s3://x/a.tar --out new.npy", "embed reads shards on local disks, and s3://x/a.tar is a URL"),
        ("run --data labeled --out new.npy --map lle", "invalid choice 'lle'"),
        ("run --data labeled --out new.npy --device gpu", "device must be one of auto, cpu, cuda, mps, or a numbered"),
    ],
)
def test_embed_writes_nothing_for_a_wrong_request(arguments, message, capsys):
    assert message in error_line(capsys, "embed", *arguments.split())
    assert not list(Path().glob("new*"))
