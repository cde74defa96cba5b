"""Encoders that start from a file of weights, and what tasks remember of it."""

import hashlib
import logging
import pickle

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

import ssl_pretext as sp
from ssl_pretext.encoders import create_encoder, without_weights
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError

NAME = "timm/test_resnet"


@pytest.fixture
def published():
    """The weights of a complete network of timm with its classifier."""
    torch.manual_seed(7)
    return timm.create_model("test_resnet").state_dict()


def saved(tensors, path, prefix="", **others):
    tensors = {prefix + key: value for key, value in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({**tensors, **others}, path)
    return path


def check_equal(encoder, published):
    own = encoder.body.state_dict()
    assert len(own) > 10
    assert all(torch.equal(value, published[key]) for key, value in own.items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder.", "encoder.body."])
def test_weights_with_common_prefixes(suffix, prefix, published, tmp_path, caplog):
    file = saved(published, tmp_path / f"w.{suffix}", prefix)
    with caplog.at_level(logging.INFO):
        check_equal(create_encoder(f"{NAME}[weights={file}]", in_channels=3), published)
    assert f"ignored, because the encoder has no such weights: {prefix}fc.bias" in caplog.text or (
        f"{prefix}fc.weight" in caplog.text
    )


def test_a_checkpoint_of_a_training_script(published, tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in published.items()}
    torch.save({"epoch": 3, "state_dict": half, "loss": 0.5}, tmp_path / "w.pth")
    encoder = create_encoder(f"{NAME}[weights={tmp_path / 'w.pth'};layer=layer2]", in_channels=3)
    key = "layer1.0.conv1.weight"
    assert torch.equal(encoder.body.state_dict()[key], half[key].float())
    assert encoder.published_mean_std is None


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_input_convolutions_are_adapted(channels, published, tmp_path):
    """One channel gets the sum over RGB. Several channels get the weights of R, G and B in turn, scaled by 3 / n."""
    vision = torchvision.models.squeezenet1_1().state_dict()
    for name, tensors, key in (
        (NAME, published, "conv1.weight"),
        ("torchvision/squeezenet1_1", vision, "features.0.weight"),
    ):
        file = saved(tensors, tmp_path / "w.pth")
        encoder = create_encoder(f"{name}[weights={file}]", in_channels=channels)
        key = key if key in encoder.body.state_dict() else next(iter(encoder.body.state_dict()))
        weight = tensors[key].double()
        expected = weight.sum(1, keepdim=True)
        if channels > 1:
            expected = weight[:, [i % 3 for i in range(channels)]] * 3 / channels
        torch.testing.assert_close(encoder.body.state_dict()[key].double(), expected, rtol=1e-5, atol=1e-7)


def test_transformers_of_torchvision_and_registered_encoders(tmp_path):
    vit = torchvision.models.vit_b_32().state_dict()
    file = saved(vit, tmp_path / "vit.pth")
    encoder = create_encoder(f"torchvision/vit_b_32[weights={file}]", in_channels=3)
    assert torch.equal(encoder.body.pos_embedding, vit["encoder.pos_embedding"])
    autoencoder = create_encoder("autoencoder[width=0.5]")
    file = saved(autoencoder.state_dict(), tmp_path / "a.safetensors", "encoder.")
    again = create_encoder(f"autoencoder[weights={file};width=0.5]")
    assert all(torch.equal(value, autoencoder.state_dict()[key]) for key, value in again.state_dict().items())


def test_an_exported_encoder_and_a_saved_task_are_files_of_weights(tmp_path):
    task = sp.Colorization(NAME).eval()
    task.save_pretrained(tmp_path / "task")
    sp.export_encoder(task, tmp_path / "exported")
    for folder in ("task", "exported"):
        encoder = create_encoder(f"{NAME}[weights={tmp_path / folder / 'model.safetensors'}]", in_channels=1).eval()
        images = torch.rand(1, 1, 64, 64)
        assert torch.equal(encoder(images), task.encoder(images))


def test_a_task_remembers_the_file_and_does_not_need_it(published, tmp_path):
    file = saved(published, tmp_path / "w.safetensors")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    task = sp.CrossChannelPrediction("rgb", "rgb", f"{NAME}[weights={file}]")
    assert task.encoder_name == f"{NAME}[weights={file};weights_sha256={sha256}]"
    assert without_weights(task.encoder_name) == NAME
    with torch.no_grad():
        next(task.encoder.parameters()).add_(1)
    task.save_pretrained(tmp_path / "task")
    assert sha256 in (tmp_path / "task/config.json").read_text()
    assert f"w.safetensors;weights_sha256={sha256}" in (tmp_path / "task/README.md").read_text()
    check_equal(task.before().encoder, published)
    file.unlink()
    loaded = sp.PretextTask.from_pretrained(tmp_path / "task")
    assert loaded.encoder_name == task.encoder_name
    assert torch.equal(next(loaded.encoder.parameters()), next(task.encoder.parameters()))
    loaded.untrained(1)
    sp.export_encoder(loaded, tmp_path / "exported")
    with pytest.raises(
        MissingFileError, match=r"the file of weights of timm/test_resnet, .*w.safetensors, does not ex"
    ):
        loaded.before()
    saved({key: value + 1 for key, value in published.items()}, file)
    with pytest.raises(
        CheckpointError, match=f"is not the file of weights .* started from, whose SHA-256 was {sha256}"
    ):
        loaded.before()


def test_unusable_files(published, tmp_path):
    good = saved(published, tmp_path / "good.pth")

    def refused(tensors, message, name=NAME, channels=3):
        file = tensors if not isinstance(tensors, dict) else saved(tensors, tmp_path / "bad.pth")
        with pytest.raises(CheckpointError, match=message):
            create_encoder(f"{name}[weights={file}]", in_channels=channels)

    first = next(iter(published))
    refused(
        {key: value for key, value in published.items() if "layer1.0" not in key}, r"layer1\.0.* are not in the fil"
    )
    refused({"nothing": torch.zeros(1)}, f"does not fit {NAME}: {first}, .* and [0-9]+ more of its weights are not in")
    refused({**published, first: torch.zeros(1, 2, 3, 3)}, rf"{first} has the shape \(1, 2, 3, 3\) in the file and \(")
    refused({**published, "layer1.0.conv1.weight": published["layer1.0.conv1.weight"] * torch.nan}, "are not finite")
    refused(
        {**published, f"module.{first}": published[first]}, f"holds {first} of the encoder twice, as {first} and mo"
    )
    (tmp_path / "text.safetensors").write_text("no weights")
    refused(tmp_path / "text.safetensors", f"text.safetensors is not a file of weights for {NAME}")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1]))
    refused(tmp_path / "list.pth", f"list.pth is not a file of weights for {NAME}")
    refused(tmp_path, "is not a regular file")
    refused(good, "does not fit timm/resnet10t", name="timm/resnet10t")
    with pytest.raises(ArgumentError, match="has both pretrained=true and weights; choose one of them"):
        create_encoder(f"{NAME}[weights={good};pretrained=true]")
    with pytest.raises(ArgumentError, match="has weights_sha256 but no weights"):
        create_encoder(f"{NAME}[weights_sha256=abc]")
    with pytest.raises(MissingFileError, match="nowhere.pth, does not exist; correct the path"):
        sp.Colorization(f"{NAME}[weights=nowhere.pth]")
