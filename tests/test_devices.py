import pytest
import torch

from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.devices import DEVICES, CopyToHost, is_capturing, is_idle, resolve_device


@pytest.mark.parametrize(
    ("device", "has_gpu", "expected"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_names_are_resolved(device, has_gpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert device in DEVICES
    assert resolve_device(device) == expected


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = "FitConfig.device is 'cuda', but PyTorch finds no CUDA device on this machine; use 'auto' or 'cpu'"
    with pytest.raises(ArgumentError) as caught:
        resolve_device("cuda", "FitConfig.device")
    assert str(caught.value) == message


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "", "CPU"])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_unknown_names_are_refused(device, has_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    with pytest.raises(ArgumentError, match=f"device must be one of auto, cpu, cuda, got '{device}'"):
        resolve_device(device)


def test_nothing_is_waited_for_without_a_gpu():
    assert is_idle(torch.device("cpu"))
    assert not is_capturing(torch.device("cpu"))
    copy = CopyToHost(torch.arange(3))
    assert copy.is_complete()
    assert copy.wait().tolist() == [0, 1, 2]
