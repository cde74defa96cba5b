"""Metrics of probes equal scikit-learn's and torchmetrics', and their scores per image equal the jackknife."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from ssl_pretext.errors import UnknownNameError
from ssl_pretext.probes.metrics import METRICS, find_metrics, image_scores


def _draw(kind: str, seed: int = 0, images: int = 60) -> tuple[Tensor, Tensor]:
    """Random outputs and true targets of a kind; scores of labels have ties."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images, 4, generator=generator)
    if kind == "class":
        labels = torch.randint(0, 4, (images,), generator=generator).clamp(max=torch.randint(1, 4, (1,)).item())
        return (noise + torch.nn.functional.one_hot(labels, 4)).softmax(dim=1), labels
    if kind == "labels":
        labels = (torch.rand(images, 4, generator=generator) < torch.tensor([0.1, 0.3, 0.5, 0.9])).float()
        labels[0] = 1
        return (noise + labels).sigmoid().mul(8).round().div(8), labels
    if kind == "numbers":
        truth = torch.randn(images, 4, generator=generator) * torch.tensor([1e-3, 1.0, 50.0, 1e5])
        return truth + truth.std(dim=0) * noise, truth
    true, predicted = (torch.nn.functional.one_hot(maps, 4).flatten(1, 2) for maps in _draw_maps(seed, images))
    return torch.stack([(true * predicted).sum(dim=1), predicted.sum(dim=1)], dim=2), true.sum(dim=1)


def _draw_maps(seed: int, images: int = 60) -> tuple[Tensor, Tensor]:
    """True and predicted classes of pixels, of which more than half agree."""
    generator = torch.Generator().manual_seed(seed)
    true, predicted = (torch.randint(0, 4, (images, 5, 5), generator=generator) for _ in range(2))
    return true, torch.where(torch.rand(images, 5, 5, generator=generator) < 0.5, true, predicted)


REFERENCES = {
    ("class", "accuracy"): lambda o, t: sk.accuracy_score(t, o.argmax(1)),
    ("class", "balanced_accuracy"): lambda o, t: sk.recall_score(t, o.argmax(1), labels=t.unique(), average="macro"),
    ("class", "macro_f1"): lambda o, t: sk.f1_score(t, o.argmax(1), average="macro"),
    ("class", "calibration_error"): lambda o, t: multiclass_calibration_error(o, t, 4, n_bins=15).item(),
    ("labels", "mean_average_precision"): lambda o, t: sk.average_precision_score(t, o, average="macro"),
    ("labels", "macro_f1"): lambda o, t: sk.f1_score(t, o > 0.5, average="macro"),
    ("labels", "micro_f1"): lambda o, t: sk.f1_score(t, o > 0.5, average="micro"),
    ("numbers", "r2"): lambda o, t: sk.r2_score(t, o),
    ("numbers", "rmse"): lambda o, t: sk.root_mean_squared_error(t, o),
    ("mask", "mean_iou"): lambda o, t: sk.jaccard_score(t, o, average="macro"),
    ("mask", "pixel_accuracy"): lambda o, t: sk.accuracy_score(t, o),
}
ALL = [(kind, metric.name) for kind, metrics in METRICS.items() for metric in metrics]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_metrics_equal_those_of_other_libraries(kind: str, name: str) -> None:
    (metric,) = find_metrics(kind, [name])
    for seed in range(5):
        outputs, truth = _draw(kind, seed)
        true, found = (maps.flatten() for maps in _draw_maps(seed)) if kind == "mask" else (truth, outputs)
        expected = REFERENCES[kind, name](found, true)
        assert image_scores(metric, outputs, truth).mean().item() == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_scores_of_images_show_the_variance_of_the_metric_as_the_bootstrap_does(kind: str, name: str) -> None:
    (metric,) = find_metrics(kind, [name])
    outputs, truth = _draw(kind, images=400)
    rng = np.random.default_rng(0)
    draws = [torch.from_numpy(rng.integers(0, 400, 400)) for _ in range(1_000)]
    ones = torch.ones(400, dtype=torch.float64)
    bootstrap = np.std([metric.of(outputs[draw], truth[draw], ones).item() for draw in draws])
    found = image_scores(metric, outputs, truth).std().item() / 400**0.5
    if name == "calibration_error":  # the absolute values of its bins are not smooth, and noise moves them upward
        assert 0.7 < found / bootstrap < 1.5
    else:
        assert found == pytest.approx(bootstrap, rel=0.1)


def test_missing_values_are_left_out() -> None:
    single = {
        "mean_average_precision": sk.average_precision_score,
        "macro_f1": lambda true, scores: sk.f1_score(true, scores > 0.5),
        "r2": sk.r2_score,
        "rmse": sk.root_mean_squared_error,
    }
    for kind in ("labels", "numbers"):
        outputs, truth = (values.double() for values in _draw(kind))
        truth[5:20, 1] = torch.nan
        for metric in find_metrics(kind):
            known = ~truth.isnan()
            if metric.name == "micro_f1":
                expected = sk.f1_score(truth[known], outputs[known] > 0.5)
            else:
                columns = [(truth[known[:, k], k], outputs[known[:, k], k]) for k in range(4)]
                expected = np.mean([single[metric.name](*column) for column in columns])
            assert image_scores(metric, outputs, truth).mean().item() == pytest.approx(expected, rel=1e-6), metric.name


def test_a_label_without_true_images_has_no_precision() -> None:
    outputs, truth = _draw("labels")
    truth[:, 2] = 0
    (metric,) = find_metrics("labels", ["mean_average_precision"])
    kept = [0, 1, 3]
    assert image_scores(metric, outputs, truth).mean().item() == pytest.approx(
        sk.average_precision_score(truth[:, kept], outputs[:, kept], average="macro"), rel=1e-6
    )


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'macro_f1'"):
        find_metrics("class", ["makro_f1"])
