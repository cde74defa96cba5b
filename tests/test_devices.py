import pytest
import torch

from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.devices import CopyToHost, is_capturing, is_idle, resolve_device


@pytest.mark.parametrize(
    ("device", "has_gpu", "expected"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
        ("cuda:1", True, "cuda:1"),
        ("mps", False, "mps"),
    ],
)
def test_names_are_resolved(device, has_gpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device(device) == expected


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = "FitConfig.device is 'cuda', but PyTorch finds no CUDA device on this machine; use 'auto' or 'cpu'"
    with pytest.raises(ArgumentError) as caught:
        resolve_device("cuda", "FitConfig.device")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:2", "device is 'cuda:2', but this machine has 2 GPUs, counted from 0"),
        ("mps", "device is 'mps', but PyTorch finds no GPU of a Mac; use 'auto' or 'cpu'"),
    ],
)
def test_a_device_that_this_machine_lacks_is_refused(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ArgumentError, match=message):
        resolve_device(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "CPU"])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_unknown_names_are_refused(device, has_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    with pytest.raises(ArgumentError, match=f"device must be one of auto, cpu, cuda, mps, or .*; got '{device}'"):
        resolve_device(device)


def test_nothing_is_waited_for_without_a_gpu():
    assert is_idle(torch.device("cpu"))
    assert not is_capturing(torch.device("cpu"))
    copy = CopyToHost(torch.arange(3))
    assert copy.is_complete()
    assert copy.wait().tolist() == [0, 1, 2]
