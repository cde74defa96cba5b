"""Hostile and damaged files: saved tasks, representations, stores, caches and checkpoints end in a PretextError."""

import json
import os
import pickle
import shutil
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from corruptions import bounded, forge, outcomes
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError, DataError, PretextError
from ssl_pretext.representations.cache import Cache, network_identity
from ssl_pretext.saving import memory_limit
from ssl_pretext.saving.contract import TrainedOn
from ssl_pretext.system.files import json_sha256, write_json

FEW = 200
MANY = pytest.param(1000, marks=pytest.mark.slow)
ENCODER = "autoencoder[width=0.125]"


def saved(folder):
    torch.manual_seed(0)
    task = sp.tasks.Rotation(ENCODER, channels="lab:L")
    task.trained_on = TrainedOn(image_size=32, resize="center crop")
    task.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("hostile") / "task")


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "task"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a file of somebody else's reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def loaded(folder):
    """What a saved task is, comparable."""
    task = sp.PretextTask.from_pretrained(folder)
    return network_identity(task), task.options(), task.trained_on, task.name


class Payload:
    """What a pickle would run."""

    def __reduce__(self):
        return os._exit, (66,)


def refused(folder, match):
    with bounded(), pytest.raises(PretextError, match=match):
        sp.PretextTask.from_pretrained(folder)


@pytest.mark.parametrize("count", [FEW, MANY])
def test_random_harm_to_a_saved_task_is_noticed(folder, count):
    found = outcomes(
        [folder / "config.json", folder / "model.safetensors"], lambda: loaded(folder), loaded(folder), count, seed=1
    )
    print(found)
    assert found.keys() <= {"refused", "same"}, found
    assert found["same"] < 0.1 * count  # what changes the layout of the contract alone, or nothing at all


def test_a_reader_that_lets_harm_pass_would_be_seen(folder):
    found = outcomes(
        [folder / "model.safetensors"], lambda: len((folder / "model.safetensors").read_bytes()), 0, 20, seed=3
    )
    assert found == {"other": 20}
    found = outcomes(
        [folder / "config.json"],
        lambda: json.loads((folder / "config.json").read_text())["task"],
        "rotation",
        50,
        seed=3,
    )
    assert {name.partition(":")[0] for name in found} >= {"same", "JSONDecodeError"}


ENDLESS = 10**9


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "autoencoder[width=1000000]"},
        {"encoder": f"autoencoder[latent_channels={ENDLESS}]"},
        {"encoder": "autoencoder[width=-1]"},
        {"encoder": "autoencoder[width=nan]"},
        {"encoder": "autoencoder[width=inf]"},
        {"encoder": f"timm/vit_tiny_patch16_224[img_size={10**6}]"},
        {"encoder": f"timm/vit_tiny_patch16_224[depth={ENDLESS}]"},
        {"encoder": f"timm/vit_tiny_patch16_224[embed_dim={3 * 10**6}]"},
        {"encoder": "timm/resnet18[checkpoint_path=PAYLOAD]"},
        {"encoder": "timm/resnet18[pretrained_cfg=PAYLOAD]"},
        {"encoder": "timm/resnet18[pretrained_cfg_overlay=PAYLOAD]"},
        {"encoder": "timm/resnet18[pretrained_strict=false]"},
        {"encoder": "timm/resnet18[cache_dir=/]"},
        {"encoder": "timm/hf-hub:evil/model"},
        {"encoder": "timm/hf_hub:evil/model"},
        {"encoder": "timm/local-dir:/tmp"},
        {"encoder": "timm/../../evil"},
        {"encoder": "torchvision/resnet18[weights=DEFAULT]"},
        {"encoder": "torchvision/resnet18[weights=PAYLOAD]"},
        {"encoder": f"torchvision/resnet18[width_per_group={ENDLESS}]"},
        {"encoder": "os.system"},
        {"encoder": "../model.safetensors"},
        {"encoder": None},
        {"encoder": 5},
        {"encoder": ["autoencoder"] * 3},
        {"encoder": {"autoencoder": 1}},
        {"encoder": "x" * 10**6},
        {"encoder": "[" * 10**5},
        {"channels": "os:system"},
        {"channels": "lab:" + "L," * 10**5},
        {"channels": 7},
        {"every": {"__class__": "os.system"}},
        {"__class__": "os.system"},
        {"self": 1},
        {"": 1},
    ],
    ids=lambda options: str(options)[:60],
)
def test_what_a_contract_asks_for_is_not_done(folder, options):
    payload = folder / "payload.pth"
    payload.write_bytes(pickle.dumps(Payload()))
    changed = {"encoder": ENCODER, "channels": "lab:L", "every": True} | options
    if isinstance(changed["encoder"], str):
        changed["encoder"] = changed["encoder"].replace("PAYLOAD", str(payload))
    forge(folder, options=changed)
    refused(folder, "no task can be made from the contract .*config.json|was given as a module|do not fit the task")


VIT = "timm/vit_tiny_patch16_224[img_size=32]"
COLOR = {"encoder": ENCODER, "target": "lab:ab", "losses": {"l1": 1.0}}


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("os.system", {}),
        ("../rotation", {"encoder": ENCODER}),
        ("colorization", COLOR | {"output_stride": ENDLESS}),
        ("colorization", COLOR | {"output_stride": 0}),
        ("colorization", COLOR | {"decoder": "os.system"}),
        ("colorization", COLOR | {"decoder": None, "losses": {}}),
        ("colorization", COLOR | {"losses": {"l1": float("1e999")}}),
        ("colorization", COLOR | {"losses": {"l1": -1}}),
        ("colorization", COLOR | {"losses": {"l1": "1"}}),
        ("colorization", COLOR | {"losses": ["l1"]}),
        ("colorization", COLOR | {"losses": {"os.system": 1}}),
        ("colorization", COLOR | {"losses": {f"channel_classification[bins={ENDLESS}]": 1}}),
        ("colorization", COLOR | {"losses": {"channel_classification[bins=100000]": 1}}),
        ("colorization", COLOR | {"losses": {f"adversarial[width={ENDLESS}]": 1}}),
        ("colorization", COLOR | {"losses": {"lpips[net=../../evil]": 1}}),
        ("colorization", COLOR | {"losses": {"perceptual[network=hf-hub:evil/model]": 1}}),
        ("colorization", COLOR | {"regularizers": {"nuclear_norm": float("1e999")}}),
        pytest.param("masked_patches", {"encoder": VIT, "depth": ENDLESS}, marks=pytest.mark.slow),
        ("masked_patches", {"encoder": VIT, "width": 64 * ENDLESS}),
        ("jigsaw", {"encoder": ENCODER, "num_permutations": 362_880}),
        ("jigsaw", {"encoder": ENCODER, "grid": ENDLESS}),
        ("cross_channel_contrast", {"first": "lab:L", "second": "lab:ab", "encoder": ENCODER, "embed_dim": ENDLESS}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_no_task_is_built_far_beyond_its_weights(folder, task, options):
    forge(folder, task=task, options=options)
    refused(
        folder,
        "no task can be made from the contract|do not fit the task|is not valid JSON|was given as a module",
    )


def trained_on(**changes):
    return {"trained_on": {"image_size": 32, "resize": "center crop", "settings": None} | changes}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "2"}, "is not the contract of a task"),
        ({"format": 1}, "made by an unreleased version of ssl_pretext"),
        ({"format": 3}, "has format 3, and this version reads 2; update ssl_pretext"),
        ({"format": True}, "is not the contract of a task"),
        ({"task": ["rotation"]}, r"is damaged: task is \['rotation'\]"),
        ({"task": None}, "is damaged: task is None"),
        ({"options": [1]}, "is damaged: options is"),
        ({"library_version": 3}, "is damaged: library_version is 3"),
        (trained_on(resize=3), r"is damaged: resize is 3"),
        ({"weights_sha256": 0}, "is damaged: weights_sha256 is 0"),
        ({"weights_sha256": "0" * 64}, "are not those that the contract was saved with"),
        ({"code": "os.system('true')"}, "holds code, which this version does not know"),
        (trained_on(image_size=ENDLESS), r"is damaged: image_size is 1000000000"),
        (trained_on(image_size=-1), r"is damaged: image_size is -1"),
        (trained_on(image_size=0), r"is damaged: image_size is 0"),
        (trained_on(image_size=True), r"is damaged: image_size is True"),
        (trained_on(image_size=1.5), r"is damaged: image_size is 1.5"),
        (trained_on(image_size=[1, 2, 3]), r"is damaged: image_size is \[1, 2, 3\]"),
        (trained_on(image_size=[8, "8"]), r"is damaged: image_size is"),
        (trained_on(image_size=[]), r"is damaged: image_size is"),
        ({"channel_spaces": 5}, "is damaged: channel_spaces is 5"),
        ({"channel_spaces": [5]}, "no task can be made"),
        ({"channel_spaces": [{}]}, "no task can be made"),
        ({"channel_spaces": [{"name": "rgb", "channels": ["x"], "center": 0, "scale": 1}]}, "exists already"),
        ({"channel_spaces": [{"name": "h1", "channels": ["x"], "center": "0", "scale": 1}]}, "no task can be made"),
        ({"channel_spaces": [{"name": "h2", "channels": ["x"], "center": 1e999, "scale": 1}]}, "not valid JSON|finite"),
        ({"channel_spaces": [{"name": "h3", "channels": ["x", "x"], "center": 0, "scale": 1}]}, "distinct"),
        ({"channel_spaces": [{"name": "h4", "channels": [["x"]], "center": 0, "scale": 1}]}, "no task can be made"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_contract_of_other_values_is_refused(folder, changes, match):
    forge(folder, **changes)
    refused(folder, match)


def test_a_number_that_json_does_not_know_is_no_damage(folder):
    task = sp.PretextTask.from_pretrained(folder)
    task.trained_on = TrainedOn(settings={"learning_rate": float("inf")})
    task.save_pretrained(folder)
    assert sp.PretextTask.from_pretrained(folder).trained_on.settings == {"learning_rate": None}


def test_an_edited_contract_and_other_weights_are_refused(folder):
    file = folder / "config.json"
    contract = json.loads(file.read_text())
    file.write_text(json.dumps(contract | trained_on(image_size=64)))
    refused(folder, "has changed since it was saved: it is damaged or was edited")
    for key in ("contract_sha256", "weights_sha256"):
        file.write_text(json.dumps({name: value for name, value in contract.items() if name != key}))
        refused(folder, f"is damaged: {key} is 'missing'|has changed since it was saved")
    file.write_text(json.dumps(contract))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()},
        folder / "model.safetensors",
    )
    refused(folder, "damaged or were replaced")


JSON_FILES = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"1",
    "deep": b"[" * 10**6,
    "deep objects": b'{"a":' * 10**6,
    "NaN": b'{"format": NaN}',
    "Infinity": b'{"format": 1, "task": -Infinity}',
    "a key twice": b'{"format": 1, "format": 1, "task": "rotation", "options": {}}',
    "a nested key twice": b'{"format": 1, "task": "rotation", "options": {"encoder": "a", "encoder": "b"}}',
    "a huge integer": b'{"format": 1' + b"0" * 10**5 + b"}",
    "no UTF-8": b'{"format": "\xff\xfe"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    "zeros": bytes(1000),
    "pickle": pickle.dumps(Payload()),
    "YAML": b"!!python/object/apply:os.system ['exit 66']",
    "too large": b'{"format": 1, "task": "' + b"x" * 2**23 + b'"}',
}


@pytest.mark.parametrize("content", JSON_FILES.values(), ids=JSON_FILES)
def test_a_contract_that_is_no_strict_json_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    refused(folder, r"config\.json (is not valid JSON|is not the contract|has [\d,]+ bytes, more than)")


def no_file(kind):
    """A maker of what stands in a file's place."""

    def make(path):
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "broken disk":
            path.symlink_to("/proc/self/mem")

    return make


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["nothing", "pipe", "folder", "device", "loop", "broken disk"])
def test_what_stands_in_a_files_place_is_not_waited_for(folder, name, kind):
    no_file(kind)(folder / name)
    refused(folder, rf"{name} does not exist|no {name}|{name} is no regular file|{name} cannot be read")


def test_links_to_files_are_followed_as_the_hub_keeps_them(folder, tmp_path):
    expected = loaded(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert loaded(folder) == expected


def header(entries, *, length=None, data=b""):
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


WEIGHTS = {
    "empty": b"",
    "short": b"\0" * 7,
    "zeros": bytes(1000),
    "pickle": pickle.dumps(Payload()),
    "a length beyond the file": header({}, length=10**6),
    "a length of 2**63": header({}, length=2**63),
    "a length of 2**64 - 1": header({}, length=2**64 - 1),
    "no JSON": header(b"{" * 100),
    "deep JSON": header(b'{"a":' * 10**5),
    "a list": header([]),
    "no tensors": header({}),
    "no offsets": header({"a": {"dtype": "F32", "shape": [1]}}),
    "offsets beyond the file": header({"a": entry([10], 0, 40)}),
    "offsets backward": header({"a": entry([1], 4, 0)}, data=bytes(4)),
    "negative offsets": header({"a": entry([1], -4, 0)}, data=bytes(4)),
    "negative shape": header({"a": entry([-1], 0, 4)}, data=bytes(4)),
    "a shape that overflows": header({"a": entry([2**32, 2**32, 4], 0, 0)}),
    "a shape of 2**62": header({"a": entry([2**62], 0, 4)}, data=bytes(4)),
    "another size": header({"a": entry([2], 0, 4)}, data=bytes(4)),
    "overlap": header({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, data=bytes(4)),
    "a hole": header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, data=bytes(12)),
    "bytes left over": header({"a": entry([1], 0, 4)}, data=bytes(8)),
    "an unknown dtype": header({"a": entry([1], 0, 4, "PICKLE")}, data=bytes(4)),
    "a name twice": header(b'{"a":%b,"a":%b}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), data=bytes(4)),
    "names that are paths": header({"../../../etc/passwd": entry([1], 0, 4)}, data=bytes(4)),
    "a name of a part of Python": header({"__class__": entry([1], 0, 4)}, data=bytes(4)),
    "very many tensors": header({f"t{i}": entry([0], 0, 0) for i in range(10_000)}),
    "odd notes": header({"__metadata__": {"a": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("content", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_no_safetensors_of_this_task_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "are not those that the contract was saved with")
    forge(folder)  # else the hash alone would refuse them
    refused(folder, r"the weights .*model\.safetensors do not fit the task")


def change(name):
    def one_more(weights):
        weights["os.system"] = torch.zeros(1)

    def one_less(weights):
        del weights[sorted(weights)[0]]

    def other_shape(weights):
        first = sorted(weights)[0]
        weights[first] = weights[first].flatten()[:-1].clone()

    def other_dtype(weights):
        first = next(key for key in sorted(weights) if weights[key].is_floating_point())
        weights[first] = weights[first].to(torch.int8 if name == "integers" else torch.float64)

    return {"extra": one_more, "missing": one_less, "shape": other_shape}.get(name, other_dtype)


@pytest.mark.parametrize("name", ["extra", "missing", "shape", "integers", "double"])
def test_other_tensors_are_refused(folder, name):
    weights = load_file(folder / "model.safetensors")
    change(name)(weights)
    save_file(weights, folder / "model.safetensors")
    forge(folder)
    refused(folder, "do not fit the task: .*" + ("instead of torch.float32" if name in ("integers", "double") else ""))


def test_pickles_beside_the_weights_are_not_looked_at(folder):
    expected = loaded(folder)
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "checkpoint.ckpt", "model.safetensors.index.json"):
        (folder / name).write_bytes(pickle.dumps(Payload()))
    (folder / "modeling.py").write_text("raise SystemExit(66)")
    assert loaded(folder) == expected
    (folder / "model.safetensors").unlink()
    refused(folder, r"has a contract but no model\.safetensors")


@pytest.mark.parametrize(
    "folder_name", ["~", "..", "/", "a/../../b", "evil/model/../..", "file:///etc", "https://evil/x", "\0"]
)
def test_a_name_that_is_no_folder_is_refused(folder_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(folder_name, "no folder|does not exist|neither a folder")


def test_an_allowance_counts_what_is_made_and_nothing_else(monkeypatch):
    monkeypatch.setattr(memory_limit, "BESIDES", 1000)
    with memory_limit.MemoryLimit(500):
        first = torch.nn.Linear(16, 16)  # 1,088 bytes
        torch.randperm(10, generator=torch.Generator().manual_seed(0))
        first(torch.ones(2, 16)).relu() + first.weight.sum()
    assert not first.weight.is_meta
    with (
        pytest.raises(ArgumentError, match="far more memory than its weights, of 500 bytes"),
        memory_limit.MemoryLimit(500),
    ):
        nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))
    torch.zeros(10**6)  # only inside


# Representations


@pytest.mark.parametrize("count", [FEW // 4, pytest.param(300, marks=pytest.mark.slow)])
def test_random_harm_to_a_saved_representation_is_noticed(folder, tmp_path, count):
    task = sp.PretextTask.from_pretrained(folder)
    one = sp.representations.Concatenated([task.representation(), sp.Pixels("lab:L", size=4)], size=2)
    sp.save_representation(one, tmp_path / "saved")
    files = [*(tmp_path / "saved").rglob("*.json"), *(tmp_path / "saved").rglob("*.safetensors")]
    assert len(files) == 5

    def read():
        again = sp.load_representation(tmp_path / "saved")
        return again.describe, again.name, again.members[0].layer, network_identity(again.members[0].backbone.module)

    found = outcomes(files, read, read(), count, seed=4)
    print(found)
    assert found.keys() <= {"refused", "same"}, found


NETWORK = {"kind": "network", "class": "", "channels": "rgb", "mean": [0] * 3, "std": [1] * 3, "image_size": None}


@pytest.mark.parametrize(
    "describe",
    [
        {"kind": "concatenated", "parts": [0, 0], "size": None},
        {"kind": "histogram", "bins": ENDLESS},
        {"kind": "histogram", "bins": -1},
        {"kind": "pixels", "channels": "lab:L", "size": [ENDLESS]},
        {"kind": "pixels", "channels": ["os"]},
        NETWORK | {"encoder": f"timm/vit_tiny_patch16_224[depth={ENDLESS}]"},
        NETWORK | {"encoder": "timm/resnet18[checkpoint_path=x]"},
        {"kind": "os.system"},
        {"space": {"name": "x"}, "kind": "pixels"},
        {"space": {"name": "x", "os": 1}, "kind": "pixels"},
        [],
        "concatenated",
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_hostile_note_of_a_representation_is_refused(folder, tmp_path, describe):
    note = {"format": 2, "name": "x", "layer": "", "describe": describe, "network": None}
    write_json(tmp_path / "saved" / "representation.json", {**note, "sha256": json_sha256(note)})
    for place in ("part0", "part1"):
        (tmp_path / "saved" / place).symlink_to(".")  # each holds both of them again, and so on
    shutil.copy(folder / "model.safetensors", tmp_path / "saved")
    with bounded(), pytest.raises(PretextError, match="does not describe|is a link|unknown kind|not fit|not those"):
        sp.load_representation(tmp_path / "saved")


# Stores and caches


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "photos" / f"class {i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize("count", [FEW, MANY])
def test_random_harm_to_a_store_is_noticed(photos, tmp_path, count):
    def read():
        store = sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")
        return store.images().tolist(), store.names, store.labels.tolist(), store.classes, store.skipped, store.sha256

    whole = read()
    (made,) = (tmp_path / "cache").iterdir()
    found = outcomes([made / "index.json", made / "images.u8"], read, whole, count, seed=5)
    print(found)
    assert found.keys() <= {"refused", "same"}, found
    assert found["same"] < 0.1 * count


def test_a_damaged_store_names_its_image_and_is_checked_once(photos, tmp_path, monkeypatch):
    def opened():
        return sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")

    opened()
    (made,) = (tmp_path / "cache").iterdir()
    content = bytearray((made / "images.u8").read_bytes())
    content[5 * 192 + 7] ^= 1
    (made / "images.u8").write_bytes(content)
    store = opened()
    assert store.images([0, 4, 6]).shape == (3, 3, 8, 8)
    for read in (store.images, lambda: store[5], lambda: store.subset([5]).images()):
        with pytest.raises(DataError, match=r"is damaged; delete that folder.* \(image 5 has changed"):
            read()
    counted = []
    monkeypatch.setattr("ssl_pretext.data.checksums.checksum", lambda pixels: counted.append(1))
    store.images([0, 4, 6])
    store.subset([4, 0]).images()
    assert not counted


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": "abcdefghijkl"},
        {"labels": [0] * 11},
        {"labels": [0] * 11 + [3]},
        {"labels": [0] * 11 + [-1]},
        {"labels": [0] * 11 + [[0]]},
        {"shape": [-3, -8, 8]},
        {"shape": [2**32, 2**32, 192]},
        {"shape": [192]},
        {"shape": "388"},
        {"dtype": "object"},
        {"dtype": "V8"},
        {"dtype": "float32"},
        {"dtype": ["u1"]},
        {"checksums": [-1] * 12},
        {"checksums": [2**40] * 12},
        {"checksums": [0] * 3},
        {"format": 99},
    ],
    ids=str,
)
def test_a_hostile_index_is_refused(photos, tmp_path, changes):
    sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*/index.json")
    index = json.loads(file.read_text()) | changes
    del index["sha256"]
    write_json(file, {**index, "sha256": json_sha256(index)})
    with bounded(), pytest.raises(DataError, match="is damaged; delete that folder"):
        sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["index.json", "images.u8"])
@pytest.mark.parametrize("kind", ["nothing", "pipe", "folder", "device", "loop"])
def test_what_stands_in_the_place_of_a_store_is_not_waited_for(photos, tmp_path, name, kind):
    sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")
    (made,) = (tmp_path / "cache").iterdir()
    no_file(kind)(made / name)
    with bounded(), pytest.raises(DataError, match="is damaged; delete that folder"):
        sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")


@pytest.mark.parametrize("count", [FEW, MANY])
def test_harm_to_a_cache_is_as_if_nothing_were_there(tmp_path, count):
    cache, features, result = Cache(tmp_path), torch.randn(6, 5, 2, 2), {"accuracy": [0.5, None], 3: "x", 20: "y"}
    cache.store_features({"of": "features"}, features)
    cache.store_result({"of": "results"}, result)

    def read():
        found = cache.features({"of": "features"})
        return None if found is None else found.tolist(), cache.result({"of": "results"})

    whole = read()
    assert whole == (features.tolist(), {"accuracy": [0.5, None], "3": "x", "20": "y"})

    def harmless():
        return all(found in (None, right) for found, right in zip(read(), whole, strict=True))

    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert outcomes(files, harmless, True, count, seed=6) == {"same": count}
    for file in files:
        for kind in ("pipe", "folder", "device", "loop"):
            shutil.copy(file, tmp_path / "kept")
            no_file(kind)(file)
            with bounded():
                assert harmless()
            shutil.rmtree(file) if kind == "folder" else file.unlink()
            (tmp_path / "kept").rename(file)


# Checkpoints of a run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that has a checkpoint to go on from."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    trained(out)
    return out


def trained(out, **options):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    task = sp.Colorization(nn.Conv2d(1, 4, 3, padding=1))
    config = sp.FitConfig(out=out, epochs=1, batch_size=4, device="cpu", **options)
    return sp.fit(task, sp.ImageStore.from_arrays(images, [0] * 8), config)


@pytest.mark.parametrize("count", [FEW // 5, pytest.param(300, marks=pytest.mark.slow)])
def test_random_harm_to_the_checkpoint_of_a_run_is_noticed(stopped, tmp_path, count):
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    file = out / "checkpoints" / "last.ckpt"
    found = outcomes([file], lambda: trained(out, resume=True), trained(out, resume=True), count, seed=7)
    print(found)
    assert found.keys() <= {"refused", "same"}, found
    assert found["same"] < 0.2 * count


def test_a_damaged_checkpoint_says_what_to_do(stopped, tmp_path):
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    file = out / "checkpoints" / "last.ckpt"
    whole = file.read_bytes()
    state = torch.load(file, weights_only=True)

    def refused_because(words):
        with bounded(), pytest.raises(CheckpointError, match=f"{file} cannot be resumed: .*{words}.*delete it"):
            trained(out, resume=True)

    file.write_bytes(pickle.dumps(Payload()))
    refused_because("not a zip file")
    torch.save({**state, "code": Payload()}, file)
    refused_because("Weights only load failed")
    torch.save([1], file)
    refused_because("no attribute 'keys'")
    torch.save({"state_dict": {}}, file)
    refused_because("it holds no epoch, global_step, loops, optimizer_states")
    file.write_bytes(whole)
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda one: one.file_size)
        place = whole.index(archive.read(largest))
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused_because("has changed since it was written")
    file.write_bytes(whole)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/bomb", bytes(10**7))
    refused_because("compressed entries, which PyTorch does not write")
    no_file("pipe")(file)
    refused_because("is no regular file")
    file.unlink()
    assert len(trained(out, resume=True)) == 1, "begun anew"
    (out / "fit.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"fit\.json does not hold the settings of a run"):
        trained(out, resume=True)
