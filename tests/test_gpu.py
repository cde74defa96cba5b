"""Compiling, precisions and the GPU benchmark, as far as a CPU can test them; the last tests need a GPU."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from benchmarks.food101 import experiment
from benchmarks.food101.__main__ import _parser as food101_parser
from benchmarks.food101.__main__ import main as food101
from benchmarks.speed import gpu, gpu_session
from benchmarks.speed.gpu_peaks import peak
from ssl_pretext.color import finish_range_checks
from ssl_pretext.data.loader import BatchLoader
from ssl_pretext.errors import ArgumentError, CheckpointError, PretextError

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that `torch.compile` finds, which are run without being compiled."""
    found, compile_ = [], torch.compile

    def backend(graph, _inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend=backend))
    yield found
    torch.compiler.reset()


def store(count: int = 32) -> sp.ImageStore:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return sp.ImageStore.from_arrays(images, [0] * count)


def task() -> sp.PretextTask:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return sp.Colorization(encoder, losses={"smooth_l1": 1.0, "adversarial[width=4]": 0.01})


def fitted(out, **options):
    trained = task()
    config = sp.FitConfig(out=out, epochs=2, batch_size=16, device="cpu", **options)
    return trained, sp.fit(trained, store(), config, validation=store(8))


def test_a_compiled_run_equals_the_plain_run(tmp_path, graphs):
    plain, history = fitted(tmp_path / "plain")
    assert not graphs
    compiled, again = fitted(tmp_path / "compiled", compile=True)
    # Encoder and decoder are compiled once. Validation is not compiled, and does not make them compile again.
    assert len(graphs) == 2
    assert again == history
    assert list(plain.state_dict()) == list(compiled.state_dict())
    files = [(tmp_path / run / "task" / "model.safetensors").read_bytes() for run in ("plain", "compiled")]
    assert files[0] == files[1]
    assert "forward" not in {*vars(compiled.encoder), *vars(compiled.decoder)}
    assert sp.FitConfig(out="x", compile=True).fingerprint() == sp.FitConfig(out="x").fingerprint()


def test_both_branches_of_a_split_brain_are_compiled():
    brain = sp.SplitBrain("lab:L", "lab:ab", [nn.Conv2d(1, 4, 1), nn.Conv2d(2, 4, 1)])
    first, second = brain.branches
    expected = [first.encoder, first.decoder, second.encoder, second.decoder]
    assert [id(network) for network in brain.networks()] == [id(network) for network in expected]


def test_a_run_cannot_be_resumed_with_another_augmentation(tmp_path):
    plain, _ = fitted(tmp_path / "plain")
    augmented, _ = fitted(tmp_path / "augmented", augment="shift")
    again, _ = fitted(tmp_path / "again", augment="shift")
    weights = [trained.encoder[0].weight for trained in (plain, augmented, again)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])
    with pytest.raises(CheckpointError, match=r"other settings \(augment\)"):
        fitted(tmp_path / "plain", augment="shift", resume=True)
    fitted(tmp_path / "plain", resume=True)


@pytest.mark.parametrize("precision", ["tf32", "bf16-mixed"])
def test_precisions_train_and_restore_the_settings_of_torch(precision, tmp_path):
    settings = set()
    trained = task()
    trained.register_forward_hook(
        lambda *_: settings.add((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
    )
    config = sp.FitConfig(out=tmp_path / "run", epochs=2, batch_size=16, device="cpu", precision=precision)
    history = sp.fit(trained, store(), config)
    assert settings == {("high", False) if precision == "tf32" else ("highest", True)}
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.benchmark
    exact = fitted(tmp_path / "exact")[1]
    assert history[-1]["train_loss"] == pytest.approx(exact[-1]["train_loss"], rel=0.05)


@pytest.mark.parametrize("options", [["--compile", "--precision", "bf16-mixed"], []])
def test_the_experiment_passes_its_options_to_fit(options, tmp_path, monkeypatch, capsys):
    configs = []

    def fit(task, images, config, *, validation):
        configs.append(config)
        raise PretextError("stopped by the test")

    monkeypatch.setattr(experiment, "fit", fit)
    monkeypatch.delenv("SSL_PRETEXT_DATA", raising=False)
    arguments = ["--preset", "smoke", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert food101([*arguments, *options]) == 2
    assert "stopped by the test" in capsys.readouterr().err
    expected = (True, "bf16-mixed") if options else (False, "32-true")
    assert [(config.compile, config.precision) for config in configs] == [expected]
    assert "compile" not in json.loads((tmp_path / "run" / "config.json").read_text())


def test_steps_are_measured_on_a_cpu(tmp_path, capsys, monkeypatch):
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: compiled.append(network))  # compiling would take seconds
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--small", "--compiled", "--losses", "smooth_l1=1", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    rows = results["rows"]
    assert [(row["precision"], row["compiled"]) for row in rows] == [
        ("fp32", False),
        ("bf16", False),
        ("fp32", True),
        ("bf16", True),
    ]
    assert len(compiled) == 4  # encoder and decoder, in two precisions
    assert results["environment"]["device"] == "cpu"
    assert results["command"] == (
        "python -m benchmarks.speed.gpu --device=cpu --image-size=64 --batch-size=256 --losses=smooth_l1=1 --rounds=9 "
        "--steps=10 --small --compiled"
    )
    flop = results["gflop_per_image"] * 1e9
    for row in rows:
        assert row["tflop_per_second"] * 1e12 == pytest.approx(flop * row["images_per_second"])
        assert 0 < row["share_of_losses"] < 1
        assert row["share_of_peak"] is row["step_mebibytes"] is None
    assert rows[0]["first_loss"] == rows[2]["first_loss"] != rows[1]["first_loss"]
    assert "| bf16 compiled |" in capsys.readouterr().out


def test_floating_point_operations_are_counted_per_layer():
    step = gpu.Step(gpu.Mode("fp32"), torch.zeros(2, 3, 16, 16, dtype=torch.uint8), {"smooth_l1": 1.0})
    step.task.encoder, step.task.decoder = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
    pixels, encoder, decoder, lightness = 2 * 16 * 16, 9 * 1 * 4, 4 * 3, 3 * 3
    forward = pixels * (lightness + encoder + decoder)
    backward = pixels * (encoder + 2 * decoder)  # gradients of the weights, and of the decoder's input
    assert step.flop() == 2 * (forward + backward)


def test_peaks_are_known_for_some_devices():
    assert peak("NVIDIA H100 80GB HBM3", "bf16") == 989.5
    assert peak("NVIDIA H100 PCIe", "tf32") == 378
    assert peak("NVIDIA A100-SXM4-40GB", "bf16") == peak("NVIDIA A100 80GB PCIe", "bf16") == 312
    assert peak("Tesla T4", "fp32") == 8.1
    assert peak("Tesla T4", "bf16") is None
    parts = ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    for unknown in (*parts, "NVIDIA L40", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090 D", "cpu"):
        assert peak(unknown, "fp32") is None


def test_the_code_on_the_page_runs(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda function: function)  # compiling is slow, and tested above
    monkeypatch.setattr("ssl_pretext.data.samples.MAX_PATCHES", {"train": 2, "test": 2})
    exec(block, {})
    assert (tmp_path / "runs" / "gpu" / "task" / "model.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests machines without CUDA")
def test_without_a_gpu_the_benchmark_says_what_to_do(capsys):
    assert gpu.main([]) == 2
    assert "PyTorch finds no CUDA device here; use --device cpu --small" in capsys.readouterr().err


@needs_cuda
@pytest.mark.parametrize("options", [{}, {"augment": "shift"}, {"precision": "bf16-mixed"}, {"precision": "tf32"}])
def test_training_and_resuming_on_a_gpu(options, tmp_path):
    trained = task()
    config = {"out": tmp_path, "batch_size": 12, "device": "cuda", "resume": True, **options}
    history = sp.fit(trained, store(), sp.FitConfig(epochs=2, **config))
    assert history[-1]["train_loss"] > 0
    assert sp.PretextTask.from_pretrained(tmp_path / "task", parts={"encoder": task().encoder})
    sp.fit(task(), store(), sp.FitConfig(epochs=2, **config))


@needs_cuda
def test_a_step_does_not_wait_for_the_gpu():
    trained = sp.Colorization("autoencoder", target="rgb").to("cuda")
    batches = iter(BatchLoader(store(), 8, seed=0, augment="shift", device="cuda"))
    trained(next(batches)).loss.backward()  # the first step loads kernels and may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained(next(batches)).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_float_images_on_a_gpu_must_be_in_the_unit_range():
    trained = sp.Colorization("autoencoder", target="rgb").to("cuda")
    images = torch.rand(8, 3, 64, 64, device="cuda")
    trained(images).loss.backward()  # the first step loads kernels and may wait
    torch.cuda.synchronize()
    with pytest.raises(ArgumentError, match="takes RGB in"):  # an idle GPU is checked at once
        trained.features(255 * images.cpu().cuda())
    torch.cuda._sleep(10**9)  # keeps the GPU busy
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained(255 * images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(ArgumentError, match="in an earlier call"):
        finish_range_checks()


@needs_cuda
def test_training_on_float_images_above_one_stops_on_a_gpu(tmp_path):
    floats = sp.ImageStore.from_arrays(store().images().float(), [0] * 32)
    with pytest.raises(ArgumentError, match="takes RGB in"):
        sp.fit(task(), floats, sp.FitConfig(out=tmp_path, epochs=1, batch_size=32, device="cuda"))


@needs_cuda
def test_every_precision_is_measured_on_a_gpu(tmp_path):
    out = tmp_path / "gpu.json"
    assert gpu.main(["--small", "--no-compiled", "--losses", "smooth_l1=1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "tf32", "bf16"]
    assert all(row["step_mebibytes"] > 0 for row in rows)


def test_a_session_says_how_long_it_takes_and_what_failed(tmp_path, monkeypatch, capsys):
    started = []

    def run(words, *, timeout, check):
        started.append(words)
        assert 0 < timeout <= 600
        (tmp_path / "gpu.json").write_text('{"rows": [{"images_per_second": 1000.0}]}')
        return subprocess.CompletedProcess(words, returncode=len(started) - 1)

    monkeypatch.setattr("subprocess.run", run)
    assert gpu_session.main(["--data", "photos", "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "takes about 9 of at most 10 minutes: 4 for training steps" in shown.out
    assert "at 1000 images/s, the pretraining takes about 287 s" in shown.out  # 16 epochs of 83 * 216 images
    assert [words[2] for words in started] == ["benchmarks.speed.gpu", "benchmarks.food101"]
    assert "benchmarks.food101 --out" in shown.err


def test_the_commands_of_a_session_are_understood(tmp_path):
    for small in (False, True):
        steps, run = (part.words[2:] for part in gpu_session.parts("photos", tmp_path, small=small))
        assert gpu._parser().parse_args(steps).small == small
        assert food101_parser().parse_args(run).preset == ("smoke" if small else "documented")
