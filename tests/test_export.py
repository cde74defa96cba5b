"""Export of encoders for other libraries, and of tasks with a model card for the Hugging Face hub."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, StorageError
from ssl_pretext.system.files import read_json
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction

SMALL_VIT = "timm/vit_tiny_patch16_224[depth=2;embed_dim=48;img_size=32;patch_size=8]"


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def task(encoder: "str | nn.Module" = "timm/resnet10t", **options: object) -> sp.PretextTask:
    """A task whose weights and running statistics differ from those of a new one."""
    torch.manual_seed(1)
    made = sp.Colorization(encoder, **options)
    made(images())
    return made.eval()


def code_of(folder: Path) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    return block


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **scope: object) -> dict[str, object]:
    monkeypatch.chdir(folder)
    exec(code, scope)
    return scope


@pytest.mark.parametrize(
    "encoder", ["timm/resnet10t", "timm/mobilenetv3_small_050", SMALL_VIT, "timm/resnet10t[layer=layer2]"]
)
def test_the_code_in_the_readme_gives_the_same_features(encoder, tmp_path, monkeypatch):
    trained = task(encoder)
    exported = sp.export_encoder(trained, tmp_path)
    inputs = sp.Channels.parse("lab:L").extract(images())
    code = code_of(tmp_path)
    if "layer" in encoder:  # timm cannot load an encoder that ends at an inner layer
        assert "timm" not in code
        fresh = sp.create_encoder(encoder, in_channels=1)
        scope = run(code.replace("...", "fresh", 1), tmp_path, monkeypatch, inputs=inputs, fresh=fresh)
    else:
        scope = run(code, tmp_path, monkeypatch, inputs=inputs)
        assert type(scope["encoder"]).__module__.startswith("timm.")
    assert torch.equal(scope["features"], trained.features(images()))
    assert torch.equal(exported(images()), trained.features(images()))


@pytest.mark.parametrize("name", ["resnet18", pytest.param("vit_b_32", marks=pytest.mark.slow), "swin_t", "googlenet"])
def test_torchvision_loads_the_weights(name, tmp_path, monkeypatch):
    size = 224 if name == "vit_b_32" else 64
    trained = sp.create_task("rotation", encoder=f"torchvision/{name}", channels="lab:L").eval()
    sp.export_encoder(trained, tmp_path)
    inputs = sp.Channels.parse("lab:L").extract(images(size))
    scope = run(code_of(tmp_path), tmp_path, monkeypatch, inputs=inputs)
    assert type(scope["encoder"]).__module__.startswith("torchvision.")
    if name == "vit_b_32":  # its classifier gets the class token, which is not part of the map
        with torch.no_grad():
            tokens = scope["encoder"].encoder(
                torch.cat(
                    [scope["encoder"].class_token.expand(2, -1, -1), scope["encoder"]._process_input(inputs)], dim=1
                )
            )
        torch.testing.assert_close(tokens[:, 1:].mT.reshape(2, -1, 7, 7), trained.features(images(size)))
    else:
        torch.testing.assert_close(scope["pooled"], trained.features(images(size)).mean(dim=(2, 3)))


def test_another_network_of_timm_does_not_load_the_weights(tmp_path):
    import timm

    sp.export_encoder(task(), tmp_path)
    weights = str(tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="Missing key|size mismatch"):
        timm.create_model("resnet18", in_chans=1, num_classes=0, checkpoint_path=weights)
    assert timm.create_model("resnet10t", in_chans=1, num_classes=0, checkpoint_path=weights).num_features == 512


def test_the_readme_names_weights_that_the_features_do_not_depend_on(tmp_path):
    sp.export_encoder(task("timm/mobilenetv3_small_050"), tmp_path)
    assert "which are not trained: conv_head.weight, conv_head.bias" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet10t[stem_width=16]", "its weights have other shapes"), ("vgg11", "it has no weights named conv1")],
)
def test_an_encoder_that_the_installed_timm_builds_differently_is_refused(name, message, tmp_path):
    trained = task()
    trained.encoder_name = f"timm/{name}"
    with pytest.raises(ArgumentError, match=message):
        sp.export_encoder(trained, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(StorageError, match="cannot write .*model.safetensors: .*No space left"):
        sp.export_encoder(task(small_encoder(1)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_starts_from_the_features_of_the_task_and_does_not_change_it():
    trained = task()
    encoder = sp.export_encoder(trained)
    before = trained.features(images())
    assert torch.equal(encoder(images()), before)
    classifier = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 2)).train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(classifier(images()), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not torch.equal(encoder.eval()(images()), before)
    assert torch.equal(trained.features(images()), before)
    assert not hasattr(encoder, "decoder")


def test_export_of_bands_with_missing_values_and_of_two_encoders(tmp_path):
    space = sp.ChannelSpace.bands("export-test", ["A", "B", "C"], center=[1, 2, 3], scale=2)
    net = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    bands = sp.CrossChannelPrediction(sp.Channels(space, ["C", "A"]), sp.Channels(space, ["B"]), net).eval()
    values = images()
    values[:, :, :9] = torch.nan
    exported = sp.export_encoder(bands, tmp_path)
    assert torch.equal(exported(values), bands.features(values))
    contract = read_json(tmp_path / "encoder.json")
    assert (contract["channels"], contract["center"], contract["scale"]) == (["C", "A"], [3, 1], [2, 2])
    split_brain = sp.SplitBrain("lab:L", "lab:ab", "autoencoder").eval()
    assert torch.equal(sp.export_encoder(split_brain)(images()), split_brain.features(images()))
    sp.export_encoder(split_brain.branches[1], tmp_path / "color")
    assert read_json(tmp_path / "color" / "encoder.json")["channels"] == ["a", "b"]


@pytest.mark.parametrize("encoder", ["timm/resnet10t", "torchvision/resnet18"])
def test_two_encoders_are_written_to_a_folder_each_and_joined_by_the_readme(encoder, tmp_path, monkeypatch):
    torch.manual_seed(1)
    trained = sp.SplitBrain("lab:L", "lab:ab", encoder).eval()
    sp.export_encoder(trained, tmp_path)
    inputs = [sp.Channels.parse(channels).extract(images()) for channels in ("lab:L", "lab:ab")]
    found = run(code_of(tmp_path), tmp_path, monkeypatch, inputs=inputs)["features"]
    expected = trained.features(images())
    torch.testing.assert_close(found, expected.mean(dim=(2, 3)) if found.dim() == 2 else expected)
    contract = read_json(tmp_path / "encoder.json")
    assert [one["channels"] for one in contract["inputs"]] == [["L"], ["a", "b"]]
    assert contract["inputs"][1] == {
        key: read_json(tmp_path / "encoder1" / "encoder.json")[key] for key in contract["inputs"][1]
    }


@pytest.mark.parametrize("name", ["split_brain", "cross_channel_contrast"])
def test_an_exported_branch_has_the_image_size_of_the_task(name, tmp_path):
    trained = sp.create_task(name, first="lab:L", second="lab:ab", encoder="autoencoder")
    store = sp.ImageStore.from_arrays(images(), [0] * len(images()))
    sp.fit(trained, store, sp.FitConfig(out=tmp_path / "run", epochs=1, device="cpu"))
    for one in (trained, sp.PretextTask.from_pretrained(tmp_path / "run" / "task")):
        sp.export_encoder(one.branches[0], tmp_path / "branch")
        contract = read_json(tmp_path / "branch" / "encoder.json")
        assert (contract["image_size"], contract["resize"]) == (store.image_size, store.resize)
        assert one.branches[1].trained_on == one.trained_on
        assert one.trained_on.settings is not None


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    trained = task()
    store = sp.ImageStore.from_arrays(torch.rand(12, 3, 32, 32), [0, 1] * 6)
    return sp.evaluate({"colorization": trained.representation()}, store, store, probe="knn", seeds=2)


def test_a_model_card_shows_the_license_the_training_and_the_scores(tmp_path, report):
    trained = task(nn.Conv2d(1, 4, 3, stride=2, padding=1))
    store = sp.ImageStore.from_arrays(torch.rand(8, 3, 16, 16), [0] * 8)
    sp.fit(trained, store, sp.FitConfig(out=tmp_path / "run", epochs=1, batch_size=4, device="cpu"))
    parts = {"encoder": nn.Conv2d(1, 4, 3, stride=2, padding=1)}
    again = sp.PretextTask.from_pretrained(tmp_path / "run" / "task", parts=parts)
    assert again.trained_on == trained.trained_on
    assert (again.trained_on.settings["images"], again.trained_on.settings["sha256"]) == (8, store.sha256)
    kwargs = {"license": "apache-2.0", "datasets": ["me/photos"], "report": report}
    again.save_pretrained(tmp_path / "shared", model_card_kwargs=kwargs)
    card = ModelCard.load(tmp_path / "shared" / "README.md")
    assert (card.data.license, card.data.library_name, card.data.datasets) == (
        "apache-2.0",
        "ssl_pretext",
        ["me/photos"],
    )
    assert {"self-supervised", "colorization"} <= set(card.data.tags)
    (result,) = card.data.eval_results  # controls are not results of this model
    assert result.metric_value == report.summary()[0]["test_accuracy_mean"]
    assert report.table() in card.text
    assert "- colorization: " in card.text
    assert "colorization (untrained)" in card.text
    assert store.sha256 in card.text
    assert "Weights: apache-2.0." in card.text


def test_a_model_card_without_scores(tmp_path):
    task().save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.eval_results) == ("unknown", None)
    assert "Not evaluated yet" in card.text
    assert "the task was not trained with `fit`" in card.text
    assert "Data: not stated." in card.text
    assert "Weights: not stated." in card.text
    two_encoders = sp.tasks.CrossChannelContrast(
        "lab:L", "rgb:G", [nn.Conv2d(1, 4, 2, stride=2), nn.Conv2d(1, 4, 2, stride=2)]
    )
    assert "(B, 3, H, W), sRGB in [0, 1]" in str(two_encoders.generate_model_card())
    named = sp.tasks.CrossChannelContrast("lab:L", "rgb:G", "timm/resnet10t[layer=layer1]")
    assert "# cross_channel_contrast with timm/resnet10t[layer=layer1]\n" in str(named.generate_model_card())


def test_a_task_is_pushed_to_the_hub_and_loaded_from_it(tmp_path, monkeypatch, report):
    """A folder stands in for the hub: uploads are copied to it, and downloads are read from it."""
    hub = tmp_path / "hub"
    made: list[object] = []

    def create_repo(self, repo_id, **options):
        made.append(options["private"])
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, hub / repo_id)
        return f"{repo_id}@1"

    def snapshot_download(repo_id, *, revision, allow_patterns):
        if not (hub / repo_id).is_dir():
            raise OSError("404 Client Error")
        assert {"config.json", "model.safetensors"} == set(allow_patterns)  # never a pickle
        return str(hub / repo_id)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    trained = task()
    card = {"license": "mit", "report": report, "place": "me/colors"}
    assert trained.push_to_hub("me/colors", private=True, model_card_kwargs=card) == "me/colors@1"
    assert made == [True]
    assert {path.name for path in (hub / "me/colors").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert 'from_pretrained("me/colors")' in (hub / "me/colors/README.md").read_text()
    again = sp.PretextTask.from_pretrained("me/colors")
    assert torch.equal(again.features(images()), trained.features(images()))
    with pytest.raises(MissingFileError, match="neither a folder nor a repository"):
        sp.PretextTask.from_pretrained("me/none")
    (hub / "me/colors/config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is not the contract of a task"):
        sp.PretextTask.from_pretrained("me/colors")


def small_encoder(count: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(count, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


EXPORTED = sp.ChannelSpace.bands("exported", ["A", "B", "C"], scale=1)
GRAPHS: "dict[str, Callable[[], sp.PretextTask]]" = {
    "lab": lambda: sp.Colorization(small_encoder(1)),
    "ycbcr": lambda: CrossChannelPrediction("ycbcr:Y", "ycbcr:CbCr", "timm/resnet10t"),
    "two encoders": lambda: sp.SplitBrain("lab:L", "lab:ab", [small_encoder(1), small_encoder(2)]),
    "bands": lambda: CrossChannelPrediction(EXPORTED["A", "B"], EXPORTED["C"], small_encoder(2)),
}


def numbers(batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))


# Warnings of the exporters about themselves, the last one of torch 2.6.
by_exporters = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:.*get_attr:UserWarning",
)


@by_exporters
@pytest.mark.parametrize("kind", GRAPHS)
def test_an_exported_graph_runs_on_batches_of_any_size(kind):
    encoder = sp.export_encoder(GRAPHS[kind]())
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    example = numbers(2, 64, 64)
    program = torch.export.export(encoder, (example,), dynamic_shapes={"images": sizes}).module()
    for images in (example, numbers(17, 64, 96)):  # the second has more values than are converted at a time
        assert torch.allclose(program(images), encoder(images), atol=1e-5)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(example), encoder(example), atol=1e-5)


@by_exporters
def test_pixels_from_0_to_255_are_exported_as_they_are():
    encoder = sp.export_encoder(GRAPHS["ycbcr"]())
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    program = torch.export.export(encoder, (pixels,)).module()
    assert torch.allclose(program(pixels), encoder(pixels / 255), atol=1e-5)


@by_exporters
@pytest.mark.parametrize(
    ("kind", "dynamo"),
    [*((kind, False) for kind in GRAPHS), ("two encoders", True)],  # the newer exporter takes seconds
    ids=[*(f"{kind}, older exporter" for kind in GRAPHS), "two encoders, newer exporter"],
)
def test_onnxruntime_computes_the_features_of_torch(kind, dynamo, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    encoder, file = sp.export_encoder(GRAPHS[kind]()), str(tmp_path / "encoder.onnx")
    if dynamo:
        sizes = {"dynamic_shapes": {"images": dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)}}
    else:
        sizes = {"dynamic_axes": {"images": {0: "batch", 2: "height", 3: "width"}}}
    example = numbers(2, 64, 64)
    torch.onnx.export(encoder, (example,), file, dynamo=dynamo, input_names=["images"], verbose=False, **sizes)
    session = runtime.InferenceSession(file)
    for images in (example, numbers(17, 64, 96)):
        (features,) = session.run(None, {"images": images.numpy()})
        assert features.std() > 0.01
        assert torch.allclose(torch.from_numpy(features), encoder(images), atol=1e-4)


def test_only_tasks_are_exported():
    with pytest.raises(ArgumentError, match="needs a pretext task, got str; PretextTask.from_pretrained"):
        sp.export_encoder("saved")
