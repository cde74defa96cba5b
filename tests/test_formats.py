"""The commands `export` and `push`: each format computes what PyTorch does; refusals write nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import cli_folder, error_line  # noqa: F401 (cli_folder is a fixture)
from safetensors.torch import load_file

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.export import FORMATS, export_network, finetune_classifier, load_classifier

pytestmark = pytest.mark.usefixtures("cli_folder")


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def classified(cli_folder):  # noqa: F811
    """Networks with a classifier: of timm, of torchvision, and one that ends at an inner layer, whose task is saved."""
    store = sp.ImageStore.from_folder("labeled", image_size=32)
    encoders = {
        "timm": "timm/resnet10t",
        "torchvision": "torchvision/squeezenet1_1",
        "shufflenet": "torchvision/shufflenet_v2_x0_5",
        "inner": "timm/resnet10t[layer=layer2]",
    }
    for name, encoder in encoders.items():
        task = sp.create_task("cross_channel", source="rgb:R+G", target="rgb:B", encoder=encoder)
        finetune_classifier(task, store, store, Path("classified", name), epochs=1, device="cpu")
    task.save_pretrained("saved")
    return Path("classified")


def scores_of(folder: Path) -> torch.Tensor:
    _, network = load_classifier(folder)
    with torch.no_grad():
        return network(images())


def test_onnx_computes_the_scores_in_another_runtime(classified, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert main(["export", str(classified / "inner"), "--to", "onnx", "-o", "network.onnx"]) == 0
    assert "network.onnx (network with 3 outputs of classified/inner)" in capsys.readouterr().out
    (found,) = onnxruntime.InferenceSession("network.onnx").run(None, {"images": images().numpy()})
    np.testing.assert_allclose(found, scores_of(classified / "inner"), rtol=1e-3, atol=1e-4)
    contract = json.loads(Path("network.onnx.json").read_text())
    assert contract["output"]["names"] == ["astronaut", "chelsea", "china"]
    assert contract["input"]["shape"] == ["batch", 3, "height", "width"]
    assert contract["input"]["image_size"] == 32
    assert contract["inside"] == [{"space": "rgb", "channels": ["R", "G"], "center": [0.5] * 2, "scale": [0.5] * 2}]
    assert contract["checked"]["by"].startswith("onnxruntime")


@pytest.mark.usefixtures("classified")
def test_a_task_is_exported_with_torch_export():
    assert main(["export", "saved", "--to", "torch-export", "--out", "encoder.pt2"]) == 0
    program = torch.export.load("encoder.pt2").module()
    expected = sp.PretextTask.from_pretrained("saved").features(images())
    torch.testing.assert_close(program(images()), expected, rtol=1e-4, atol=1e-5)
    assert json.loads(Path("encoder.pt2.json").read_text())["output"]["name"] == "features"


@pytest.mark.parametrize(("library", "name"), [("timm", "timm"), ("torchvision", "shufflenet")])
def test_the_library_loads_the_network_with_its_classifier(library, name, classified, monkeypatch):
    assert main(["export", str(classified / name), "--to", library, "--out", f"as_{library}"]) == 0
    contract = json.loads(Path(f"as_{library}/encoder.json").read_text())
    assert contract["names"] == ["astronaut", "chelsea", "china"]
    expected = scores_of(classified / name)
    inputs = (images()[:, :2] - 0.5) / 0.5
    torch.testing.assert_close(
        run_readme(f"as_{library}", inputs, monkeypatch)["scores"], expected, rtol=1e-3, atol=1e-4
    )


def run_readme(folder: str, inputs: torch.Tensor, monkeypatch, **scope: object) -> dict[str, object]:
    """Runs the code in the README of an export, in its folder."""
    (code,) = re.findall(r"```python\n(.*?)```", Path(folder, "README.md").read_text(), re.S)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.chdir(folder)
        scope |= {"inputs": inputs}
        exec(code.replace("...  #", "given  #"), scope)
    return scope


def test_any_encoder_is_exported_to_safetensors_with_a_classifier_beside_it(classified, monkeypatch):
    assert main(["export", str(classified / "inner"), "--to", "safetensors", "--out", "plain"]) == 0
    assert load_file("plain/classifier.safetensors")["weight"].shape == (3, 128)
    inputs = (images()[:, :2] - 0.5) / 0.5
    fresh = sp.create_encoder("timm/resnet10t[layer=layer2]", in_channels=2)
    found = run_readme("plain", inputs, monkeypatch, given=fresh)
    torch.testing.assert_close(found["scores"], scores_of(classified / "inner"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "run --to timm --out new",
            "cannot export autoencoder to timm: it is no network of timm; export it to another",
        ),
        ("classified/torchvision --to torchvision --out new", "does not classify the average of its feature map"),
        ("classified/torchvision --to safetensors --out new", "does not classify the average of its feature map"),
        (
            "classified/inner --to torchvision --out new",
            "cannot export timm/resnet10t[layer=layer2] to torchvision: its weights are those of a network of timm; "
            "export it to timm, or to onnx, which needs neither of them",
        ),
        (
            "run --to torchvision --out new",
            "it is no network of torchvision; export it to another format, such as onnx",
        ),
        ("run --to onnx --out photos", "photos is a folder, and this format is one file; choose the name of a file"),
        ("run --to safetensors --out photo.jpg", "photo.jpg is a file, and this format is a folder of files"),
        ("nowhere --to onnx --out new", "there is no folder nowhere with a saved task"),
        ("run --to jpeg --out new", "invalid choice 'jpeg'"),
    ],
)
def test_export_refuses_wrong_requests(arguments, message, classified, capsys):
    assert message in error_line(capsys, "export", *arguments.split())
    assert not Path("new").exists()


@pytest.mark.usefixtures("classified")
def test_a_graph_that_differs_from_torch_is_refused(monkeypatch, capsys):
    load = torch.export.load

    def wrong(file):
        program = load(file).module()
        return type("Wrong", (), {"module": lambda self: lambda images: 2 * program(images)})()

    monkeypatch.setattr("torch.export.load", wrong)
    message = error_line(capsys, "export", "saved", "--to", "torch-export", "--out", "wrong.pt2")
    assert "the exported graph differs from PyTorch by up to" in message
    assert not Path("wrong.pt2").exists()


def test_unknown_formats_are_refused(tmp_path):
    task = sp.create_task("rotation", channels="rgb", encoder="timm/resnet10t[layer=layer1]")
    with pytest.raises(sp.PretextError, match="must be one of timm, torchvision, safetensors, onnx, torch-export; got"):
        export_network(task, tmp_path / "x", to="jpeg")
    assert not [*tmp_path.iterdir()]
    assert len(FORMATS) == 5


@pytest.fixture(scope="module")
def two_encoders(tmp_path_factory):
    """A fine-tuned task with the encoder and the channels of a run with default options, in another size."""
    folder = tmp_path_factory.mktemp("two_encoders") / "classified"
    task = sp.create_task(
        "cross_channel_contrast", first="lab:L", second="lab:ab", encoder="timm/resnet10t[layer=layer2]"
    )
    store = sp.ImageStore.from_arrays(images(12), [0, 1] * 6)
    finetune_classifier(task, store, store, folder, epochs=1, device="cpu")
    return folder


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_graph_of_two_encoders_takes_rgb_and_joins_their_features(to, two_encoders, tmp_path):
    task, _ = load_classifier(two_encoders)
    export_network(task, tmp_path / "joined", to=to)
    expected = task.features(images())
    if to == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        (values,) = onnxruntime.InferenceSession(tmp_path / "joined").run(None, {"images": images().numpy()})
        found = torch.from_numpy(values)
    else:
        found = torch.export.load(tmp_path / "joined").module()(images())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    contract = json.loads((tmp_path / "joined.json").read_text())
    assert contract["input"]["values"] == "sRGB in [0, 1]"
    assert [one["channels"] for one in contract["inside"]] == [["L"], ["a", "b"]]


@pytest.mark.parametrize("to", ["timm", "safetensors"])
def test_two_encoders_are_loaded_by_timm_or_from_their_weights_with_the_classifier(
    to, two_encoders, tmp_path, monkeypatch
):
    task, network = load_classifier(two_encoders)
    export_network(task, tmp_path, to=to, classifier=network)
    inputs = [sp.Channels.parse(channels).extract(images()) for channels in ("lab:L", "lab:ab")]
    fresh = [sp.create_encoder("timm/resnet10t[layer=layer2]", in_channels=count) for count in (1, 2)]
    readme = (tmp_path / "README.md").read_text()
    assert ("features_only=True" in readme) == (to == "timm")
    for number in (0, 1):
        readme = readme.replace("...  #", f"fresh[{number}]  #", 1)
    (tmp_path / "README.md").write_text(readme)
    scope = run_readme(str(tmp_path), inputs, monkeypatch, fresh=fresh)
    torch.testing.assert_close(scope["features"], task.features(images()), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(scope["scores"], network(images()), rtol=1e-3, atol=1e-4)
    assert len(json.loads((tmp_path / "encoder.json").read_text())["names"]) == 2


def test_two_encoders_of_torchvision_have_no_common_classifier(tmp_path):
    task = sp.SplitBrain("lab:L", "lab:ab", "torchvision/shufflenet_v2_x0_5")
    store = sp.ImageStore.from_arrays(images(4), [0, 1] * 2)
    finetune_classifier(task, store, store, tmp_path / "classified", epochs=1, device="cpu")
    tuned, network = load_classifier(tmp_path / "classified")
    with pytest.raises(sp.PretextError, match="because it reads two encoders; export it to onnx or torch-export"):
        export_network(tuned, tmp_path / "x", to="torchvision", classifier=network)
    assert not (tmp_path / "x").exists()


def test_an_inner_layer_is_loaded_by_timm(tmp_path, monkeypatch):
    task = sp.create_task("rotation", channels="rgb", encoder="timm/mobilenetv3_small_050[layer=blocks.1]").eval()
    export_network(task, tmp_path, to="timm")
    inputs = sp.Channels.parse("rgb").extract(images(size=64))
    readme = (tmp_path / "README.md").read_text()
    assert "The features do not depend on these weights, which are not trained: blocks." in readme
    found = run_readme(str(tmp_path), inputs, monkeypatch)["features"]
    torch.testing.assert_close(found, task.features(images(size=64)), rtol=1e-4, atol=1e-5)


def test_an_inner_layer_that_timm_returns_in_another_shape_is_refused(tmp_path):
    """`features_only` of this network returns `(B, h, w, C)`."""
    encoder = "timm/swin_tiny_patch4_window7_224[layer=layers.1;embed_dim=24;depths=1x1x1x1]"
    task = sp.create_task("rotation", channels="rgb", encoder=encoder).eval()
    with pytest.raises(sp.PretextError, match="features_only of the installed version of timm computes other features"):
        export_network(task, tmp_path / "x", to="timm")
    assert not (tmp_path / "x").exists()


def test_bands_are_exported_in_their_units(tmp_path):
    space = sp.ChannelSpace.bands("chips", ["B02", "B03", "B08"], center=1000.0, scale=300.0)
    task = sp.CrossChannelPrediction(space["B02", "B03"], space["B08"], "timm/resnet10t[layer=layer1]").eval()
    export_network(task, tmp_path / "chips.pt2", to="torch-export")
    chips = 1000 + 300 * torch.randn(4, 3, 48, 32)
    found = torch.export.load(tmp_path / "chips.pt2").module()(chips)
    torch.testing.assert_close(found, task.features(chips), rtol=1e-4, atol=1e-5)
    contract = json.loads((tmp_path / "chips.pt2.json").read_text())
    assert contract["input"]["values"] == "the bands B02, B03, B08 in their units"
    assert contract["inside"][0]["center"] == [1000.0, 1000.0]


def test_push_uploads_the_task_with_the_scores_of_its_probe(monkeypatch, capsys):
    """A function stands in for the hub."""
    pushed = {}
    monkeypatch.setattr(
        sp.PretextTask, "push_to_hub", lambda task, name, **options: pushed.update({"name": name, **options})
    )
    assert main(["push", "run", "me/colors", "--license", "mit", "--datasets", "me/photos, me/more"]) == 0
    assert pushed["name"] == "me/colors"
    assert not pushed["private"]
    assert pushed["model_card_kwargs"] == {"license": "mit", "place": "me/colors", "datasets": ["me/photos", "me/more"]}
    request = ["probe", "run", "--data", "labeled", "--probe", "linear", "--seeds", "1", "--controls", "pixels"]
    assert main(request) == 0
    assert main(["push", "run", "me/colors", "--private"]) == 0
    assert pushed["private"]
    assert pushed["model_card_kwargs"]["report"].card["probe"] == "linear"
    assert "pushed: https://huggingface.co/me/colors" in capsys.readouterr().out


def test_push_says_what_is_wrong(monkeypatch, capsys):
    assert "the repository must be written user/name" in error_line(capsys, "push", "run", "no name")

    def refuse(*_, **__):
        raise OSError("401 Client Error")

    monkeypatch.setattr(sp.PretextTask, "push_to_hub", refuse)
    message = error_line(capsys, "push", "run", "me/colors", code=1)
    assert "cannot push to me/colors: 401 Client Error. Check the connection, and log in" in message


@pytest.mark.parametrize("command", ["finetune", "export", "push"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert not ended.value.code
    assert f"For example:\n  ssl-pretext {command} runs/first" in capsys.readouterr().out
