"""Damaged and malicious files: reading a task, representation, store, cache or checkpoint raises a PretextError."""

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
OPTIONS = {"encoder": ENCODER, "channels": "lab:L", "all_rotations": True}


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
        raise AssertionError("loading an untrusted file used the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def loaded(folder):
    """Loads a task, and returns its weights hash, options and training for comparison."""
    task = sp.PretextTask.from_pretrained(folder)
    return network_identity(task), task.options(), task.trained_on, task.name


class Payload:
    """Ends the process with code 66 when it is unpickled."""

    def __reduce__(self):
        return os._exit, (66,)


def check_refused(folder, match):
    """Checks that loading a task raises an error with a matching message, within limits of memory and time."""
    with bounded(), pytest.raises(PretextError, match=match):
        sp.PretextTask.from_pretrained(folder)


@pytest.mark.parametrize("count", [FEW, MANY])
def test_random_damage_to_a_saved_task_is_detected(folder, count):
    found = outcomes(
        [folder / "config.json", folder / "model.safetensors"], lambda: loaded(folder), loaded(folder), count, seed=1
    )
    print(found)
    assert found.keys() <= {"refused", "same"}, found
    assert found["same"] < 0.1 * count  # damage to whitespace in the contract, or no change


def test_outcomes_reports_readers_that_do_not_detect_damage(folder):
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


HUGE = 10**9


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "autoencoder[width=1000000]"},
        {"encoder": f"autoencoder[latent_channels={HUGE}]"},
        {"encoder": "autoencoder[width=-1]"},
        {"encoder": "autoencoder[width=nan]"},
        {"encoder": "autoencoder[width=inf]"},
        {"encoder": f"timm/vit_tiny_patch16_224[img_size={10**6}]"},
        {"encoder": f"timm/vit_tiny_patch16_224[depth={HUGE}]"},
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
        {"encoder": f"torchvision/resnet18[width_per_group={HUGE}]"},
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
        {"all_rotations": {"__class__": "os.system"}},
        {"__class__": "os.system"},
        {"self": 1},
        {"": 1},
    ],
    ids=lambda options: str(options)[:60],
)
def test_malicious_options_are_refused(folder, options):
    payload = folder / "payload.pth"
    payload.write_bytes(pickle.dumps(Payload()))
    changed = OPTIONS | options
    if isinstance(changed["encoder"], str):
        changed["encoder"] = changed["encoder"].replace("PAYLOAD", str(payload))
    forge(folder, options=changed)
    check_refused(
        folder, "cannot create a task from the contract .*config.json|was given as a module|do not fit the task"
    )


def test_a_forged_contract_with_valid_options_is_loaded(folder):
    """Negative control: `test_malicious_options_are_refused` changes these options."""
    forge(folder, options=OPTIONS)
    assert loaded(folder)[1] == OPTIONS


VIT = "timm/vit_tiny_patch16_224[img_size=32]"
COLOR = {"encoder": ENCODER, "target": "lab:ab", "losses": {"l1": 1.0}}


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("os.system", {}),
        ("../rotation", {"encoder": ENCODER}),
        ("colorization", COLOR | {"output_stride": HUGE}),
        ("colorization", COLOR | {"output_stride": 0}),
        ("colorization", COLOR | {"decoder": "os.system"}),
        ("colorization", COLOR | {"decoder": None, "losses": {}}),
        ("colorization", COLOR | {"losses": {"l1": float("1e999")}}),
        ("colorization", COLOR | {"losses": {"l1": -1}}),
        ("colorization", COLOR | {"losses": {"l1": "1"}}),
        ("colorization", COLOR | {"losses": ["l1"]}),
        ("colorization", COLOR | {"losses": {"os.system": 1}}),
        ("colorization", COLOR | {"losses": {f"channel_classification[bins={HUGE}]": 1}}),
        ("colorization", COLOR | {"losses": {"channel_classification[bins=100000]": 1}}),
        ("colorization", COLOR | {"losses": {f"adversarial[width={HUGE}]": 1}}),
        ("colorization", COLOR | {"losses": {"lpips[net=../../evil]": 1}}),
        ("colorization", COLOR | {"losses": {"perceptual[network=hf-hub:evil/model]": 1}}),
        ("colorization", COLOR | {"regularizers": {"nuclear_norm": float("1e999")}}),
        pytest.param("masked_patches", {"encoder": VIT, "depth": HUGE}, marks=pytest.mark.slow),
        ("masked_patches", {"encoder": VIT, "width": 64 * HUGE}),
        ("jigsaw", {"encoder": ENCODER, "num_permutations": 362_880}),
        ("jigsaw", {"encoder": ENCODER, "grid": HUGE}),
        ("cross_channel_contrast", {"first": "lab:L", "second": "lab:ab", "encoder": ENCODER, "embed_dim": HUGE}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tasks_that_need_far_more_memory_than_their_weights_are_refused(folder, task, options):
    forge(folder, task=task, options=options)
    check_refused(
        folder,
        "cannot create a task from the contract|do not fit the task|is not valid JSON|was given as a module",
    )


def trained_on(**changes):
    return {
        "trained_on": {"image_size": 32, "resize": "center crop", "settings": None, "initialized_from": None} | changes
    }


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "2"}, "is not the contract of a task"),
        ({"format": 1}, "written by an unreleased version of ssl_pretext"),
        ({"format": 3}, "has format 3, but this version of ssl_pretext reads only format 2; upgrade it: pip install"),
        ({"format": True}, "is not the contract of a task"),
        ({"task": ["rotation"]}, r"is damaged: task is \['rotation'\]"),
        ({"task": None}, "is damaged: task is None"),
        ({"options": [1]}, "is damaged: options is"),
        ({"library_version": 3}, "is damaged: library_version is 3"),
        (trained_on(resize=3), r"is damaged: resize is 3"),
        (trained_on(initialized_from=3), r"is damaged: initialized_from is 3"),
        ({"weights_sha256": 0}, "is damaged: weights_sha256 is 0"),
        ({"weights_sha256": "0" * 64}, "are not those that the contract was saved with"),
        ({"code": "os.system('true')"}, "contains the keys code, which this version of ssl_pretext does not know"),
        (trained_on(image_size=HUGE), r"is damaged: image_size is 1000000000"),
        (trained_on(image_size=-1), r"is damaged: image_size is -1"),
        (trained_on(image_size=0), r"is damaged: image_size is 0"),
        (trained_on(image_size=True), r"is damaged: image_size is True"),
        (trained_on(image_size=1.5), r"is damaged: image_size is 1.5"),
        (trained_on(image_size=[1, 2, 3]), r"is damaged: image_size is \[1, 2, 3\]"),
        (trained_on(image_size=[8, "8"]), r"is damaged: image_size is"),
        (trained_on(image_size=[]), r"is damaged: image_size is"),
        ({"channel_spaces": 5}, "is damaged: channel_spaces is 5"),
        ({"channel_spaces": [5]}, "cannot create a task"),
        ({"channel_spaces": [{}]}, "cannot create a task"),
        ({"channel_spaces": [{"name": "rgb", "channels": ["x"], "center": 0, "scale": 1}]}, "is built in"),
        ({"channel_spaces": [{"name": "h1", "channels": ["x"], "center": "0", "scale": 1}]}, "cannot create a task"),
        ({"channel_spaces": [{"name": "h2", "channels": ["x"], "center": 1e999, "scale": 1}]}, "not valid JSON|finite"),
        ({"channel_spaces": [{"name": "h3", "channels": ["x", "x"], "center": 0, "scale": 1}]}, "distinct"),
        ({"channel_spaces": [{"name": "h4", "channels": [["x"]], "center": 0, "scale": 1}]}, "cannot create a task"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_contract_with_invalid_values_is_refused(folder, changes, match):
    forge(folder, **changes)
    check_refused(folder, match)


def test_a_setting_that_is_not_finite_is_saved_as_null(folder):
    task = sp.PretextTask.from_pretrained(folder)
    task.trained_on = TrainedOn(settings={"learning_rate": float("inf")})
    task.save_pretrained(folder)
    assert sp.PretextTask.from_pretrained(folder).trained_on.settings == {"learning_rate": None}


def test_an_edited_contract_and_replaced_weights_are_refused(folder):
    file = folder / "config.json"
    contract = json.loads(file.read_text())
    file.write_text(json.dumps(contract | trained_on(image_size=64)))
    check_refused(folder, "has changed since it was saved: it is damaged or was edited")
    for key in ("contract_sha256", "weights_sha256"):
        file.write_text(json.dumps({name: value for name, value in contract.items() if name != key}))
        check_refused(folder, f"is damaged: {key} is missing|has changed since it was saved")
    file.write_text(json.dumps(contract))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()},
        folder / "model.safetensors",
    )
    check_refused(folder, "damaged or were replaced")


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
def test_a_contract_that_is_not_strict_json_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    check_refused(folder, r"config\.json (is not valid JSON|is not the contract|has [\d,]+ bytes, more than)")


def replacement(kind):
    """Returns a function that replaces a file by something that is not a regular file."""

    def replace(path):
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

    return replace


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["nothing", "pipe", "folder", "device", "loop", "broken disk"])
def test_pipes_devices_and_folders_in_place_of_a_file_are_refused(folder, name, kind):
    replacement(kind)(folder / name)
    check_refused(folder, rf"{name} does not exist|no {name}|{name} is not a regular file|{name} cannot be read")


def test_symbolic_links_to_files_are_followed(folder, tmp_path):
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
    "invalid metadata": header({"__metadata__": {"a": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("content", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_not_those_of_the_task_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    check_refused(folder, "are not those that the contract was saved with")
    forge(folder)  # with a valid hash, so that the content itself is checked
    check_refused(folder, r"the weights .*model\.safetensors do not fit the task")


def change(name):
    def extra(weights):
        weights["os.system"] = torch.zeros(1)

    def missing(weights):
        del weights[sorted(weights)[0]]

    def other_shape(weights):
        first = sorted(weights)[0]
        weights[first] = weights[first].flatten()[:-1].clone()

    def other_dtype(weights):
        first = next(key for key in sorted(weights) if weights[key].is_floating_point())
        weights[first] = weights[first].to(torch.int8 if name == "integers" else torch.float64)

    return {"extra": extra, "missing": missing, "shape": other_shape}.get(name, other_dtype)


@pytest.mark.parametrize("name", ["extra", "missing", "shape", "integers", "double"])
def test_other_tensors_are_refused(folder, name):
    weights = load_file(folder / "model.safetensors")
    change(name)(weights)
    save_file(weights, folder / "model.safetensors")
    forge(folder)
    check_refused(
        folder, "do not fit the task: .*" + ("instead of torch.float32" if name in ("integers", "double") else "")
    )


def test_pickles_in_the_folder_are_ignored(folder):
    expected = loaded(folder)
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "checkpoint.ckpt", "model.safetensors.index.json"):
        (folder / name).write_bytes(pickle.dumps(Payload()))
    (folder / "modeling.py").write_text("raise SystemExit(66)")
    assert loaded(folder) == expected
    (folder / "model.safetensors").unlink()
    check_refused(folder, r"contains a contract but no model\.safetensors")


@pytest.mark.parametrize(
    "folder_name", ["~", "..", "/", "a/../../b", "evil/model/../..", "file:///etc", "https://evil/x", "\0"]
)
def test_a_name_that_is_not_a_folder_is_refused(folder_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(folder_name, "no folder|does not exist|neither a folder")


def test_the_memory_limit_counts_new_tensors_only(monkeypatch):
    monkeypatch.setattr(memory_limit, "EXTRA_BYTES", 1000)
    with memory_limit.MemoryLimit(500):
        first = torch.nn.Linear(16, 16)  # 1,088 bytes
        torch.randperm(10, generator=torch.Generator().manual_seed(0))
        first(torch.ones(2, 16)).relu() + first.weight.sum()
    assert not first.weight.is_meta
    with (
        pytest.raises(ArgumentError, match="needs far more memory than its weights file of 500 bytes can fill"),
        memory_limit.MemoryLimit(500),
    ):
        nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))
    torch.zeros(10**6)  # outside of the block there is no limit


# Representations


@pytest.mark.parametrize("count", [FEW // 4, pytest.param(300, marks=pytest.mark.slow)])
def test_random_damage_to_a_saved_representation_is_detected(folder, tmp_path, count):
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
        {"kind": "histogram", "bins": HUGE},
        {"kind": "histogram", "bins": -1},
        {"kind": "pixels", "channels": "lab:L", "size": [HUGE]},
        {"kind": "pixels", "channels": ["os"]},
        NETWORK | {"encoder": f"timm/vit_tiny_patch16_224[depth={HUGE}]"},
        NETWORK | {"encoder": "timm/resnet18[checkpoint_path=x]"},
        {"kind": "os.system"},
        {"space": {"name": "x"}, "kind": "pixels"},
        {"space": {"name": "x", "os": 1}, "kind": "pixels"},
        [],
        "concatenated",
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_malicious_description_of_a_representation_is_refused(folder, tmp_path, describe):
    description = {"format": 2, "name": "x", "layer": "", "describe": describe, "network": None}
    write_json(tmp_path / "saved" / "representation.json", {**description, "sha256": json_sha256(description)})
    for part in ("part0", "part1"):
        (tmp_path / "saved" / part).symlink_to(".")  # a cycle: each part contains both parts
    shutil.copy(folder / "model.safetensors", tmp_path / "saved")
    with (
        bounded(),
        pytest.raises(PretextError, match="does not describe|is a symbolic link|a kind unknown|not fit|not those"),
    ):
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
def test_random_damage_to_a_store_is_detected(photos, tmp_path, count):
    def read():
        store = sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")
        return store.images().tolist(), store.names, store.labels.tolist(), store.classes, store.skipped, store.sha256

    expected = read()
    (built,) = (tmp_path / "cache").iterdir()
    found = outcomes([built / "index.json", built / "images.u8"], read, expected, count, seed=5)
    print(found)
    assert found.keys() <= {"refused", "same"}, found
    assert found["same"] < 0.1 * count


def test_a_damaged_store_names_the_image_and_checks_each_image_once(photos, tmp_path, monkeypatch):
    def opened():
        return sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")

    opened()
    (built,) = (tmp_path / "cache").iterdir()
    content = bytearray((built / "images.u8").read_bytes())
    content[5 * 192 + 7] ^= 1
    (built / "images.u8").write_bytes(content)
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
def test_a_malicious_index_is_refused(photos, tmp_path, changes):
    sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*/index.json")
    index = json.loads(file.read_text()) | changes
    del index["sha256"]
    write_json(file, {**index, "sha256": json_sha256(index)})
    with bounded(), pytest.raises(DataError, match="is damaged; delete that folder"):
        sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["index.json", "images.u8"])
@pytest.mark.parametrize("kind", ["nothing", "pipe", "folder", "device", "loop"])
def test_pipes_devices_and_folders_in_place_of_a_store_are_refused(photos, tmp_path, name, kind):
    sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")
    (built,) = (tmp_path / "cache").iterdir()
    replacement(kind)(built / name)
    with bounded(), pytest.raises(DataError, match="is damaged; delete that folder"):
        sp.ImageStore.from_folder(photos, image_size=8, cache=tmp_path / "cache")


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_damaged_cache_is_ignored(tmp_path, count):
    cache, features, result = Cache(tmp_path), torch.randn(6, 5, 2, 2), {"accuracy": [0.5, None], 3: "x", 20: "y"}
    cache.store_features({"of": "features"}, features)
    cache.store_result({"of": "results"}, result)

    def read():
        found = cache.features({"of": "features"})
        return None if found is None else found.tolist(), cache.result({"of": "results"})

    expected = read()
    assert expected == (features.tolist(), {"accuracy": [0.5, None], "3": "x", "20": "y"})

    def unharmed():
        return all(found in (None, right) for found, right in zip(read(), expected, strict=True))

    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert outcomes(files, unharmed, True, count, seed=6) == {"same": count}
    for file in files:
        for kind in ("pipe", "folder", "device", "loop"):
            shutil.copy(file, tmp_path / "backup")
            replacement(kind)(file)
            with bounded():
                assert unharmed()
            shutil.rmtree(file) if kind == "folder" else file.unlink()
            (tmp_path / "backup").rename(file)


# Training checkpoints


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run with a checkpoint."""
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
def test_random_damage_to_a_training_checkpoint_is_detected(stopped, tmp_path, count):
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    file = out / "checkpoints" / "last.ckpt"
    found = outcomes([file], lambda: trained(out, resume=True), trained(out, resume=True), count, seed=7)
    print(found)
    assert found.keys() <= {"refused", "same"}, found
    assert found["same"] < 0.2 * count


def test_the_error_for_a_damaged_checkpoint_says_what_to_do(stopped, tmp_path):
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    file = out / "checkpoints" / "last.ckpt"
    content = file.read_bytes()
    state = torch.load(file, weights_only=True)

    def check_message(words):
        with bounded(), pytest.raises(CheckpointError, match=f"{file} cannot be resumed: .*{words}.*delete it"):
            trained(out, resume=True)

    file.write_bytes(pickle.dumps(Payload()))
    check_message("not a zip file")
    torch.save({**state, "code": Payload()}, file)
    check_message("Weights only load failed")
    torch.save([1], file)
    check_message("no attribute 'keys'")
    torch.save({"state_dict": {}}, file)
    check_message("it holds no epoch, global_step, loops, optimizer_states")
    file.write_bytes(content)
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        start = content.index(archive.read(largest))
    file.write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
    check_message("has changed since it was written")
    file.write_bytes(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/bomb", bytes(10**7))
    check_message("compressed entries, which PyTorch does not write")
    replacement("pipe")(file)
    check_message("is not a regular file")
    file.unlink()
    assert len(trained(out, resume=True)) == 1, "training must start from the beginning"
    (out / "fit.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"fit\.json does not hold the settings of a run"):
        trained(out, resume=True)
