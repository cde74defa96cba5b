"""Metrics of probes equal scikit-learn's and torchmetrics', and their scores per image equal the jackknife."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from ssl_pretext.errors import UnknownNameError
from ssl_pretext.probes.metrics import METRICS, class_scores, find_metrics, image_scores
from ssl_pretext.probes.targets import KINDS


def _draw(kind: str, seed: int = 0, images: int = 60) -> tuple[Tensor, Tensor]:
    """Random outputs and true targets of a kind; scores of labels have ties."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images, 4, generator=generator)
    if kind == "class":
        labels = torch.randint(0, 4, (images,), generator=generator).clamp(
            max=torch.randint(1, 4, (1,), generator=generator).item()
        )
        return (noise + torch.nn.functional.one_hot(labels, 4)).softmax(dim=1), labels
    if kind == "labels":
        labels = (torch.rand(images, 4, generator=generator) < torch.tensor([0.1, 0.3, 0.5, 0.9])).float()
        labels[0] = 1
        return (noise + labels).sigmoid().mul(8).round().div(8), labels
    if kind == "numbers":
        truth = torch.randn(images, 4, generator=generator) * torch.tensor([1e-3, 1.0, 50.0, 1e5])
        return truth + truth.std(dim=0) * noise, truth
    if kind == "map":
        truth, predicted = _draw_number_maps(seed, images)
        return KINDS["map"].predict(predicted, truth), KINDS["map"].truth(truth, 4)
    true, predicted = (torch.nn.functional.one_hot(maps, 4).flatten(1, 2) for maps in _draw_maps(seed, images))
    return torch.stack([(true * predicted).sum(dim=1), predicted.sum(dim=1)], dim=2), true.sum(dim=1)


def _draw_maps(seed: int, images: int = 60) -> tuple[Tensor, Tensor]:
    """True and predicted classes of pixels, of which more than half agree."""
    generator = torch.Generator().manual_seed(seed)
    true, predicted = (torch.randint(0, 4, (images, 5, 5), generator=generator) for _ in range(2))
    return true, torch.where(torch.rand(images, 5, 5, generator=generator) < 0.5, true, predicted)


def _draw_number_maps(seed: int, images: int = 60) -> tuple[Tensor, Tensor]:
    """True and predicted numbers of pixels on different scales, of which some are unknown; images differ as a whole."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(images, 4, *size, generator=generator) for size in ((3, 5), (1, 1), (3, 5))]
    scale = torch.tensor([1e-3, 1.0, 50.0, 1e5])[:, None, None]
    truth = (noise[0] + noise[1]) * scale + torch.tensor([0.0, 1e3, -7.0, 1e6])[:, None, None]
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = torch.nan
    return truth, truth.nan_to_num(0) + scale * noise[2]


def _pixels(truth: Tensor, predicted: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The known pixels of one map."""
    known = ~truth[:, number].isnan()
    return truth[:, number][known].double(), predicted[:, number][known].double()


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
    ("map", "r2"): lambda o, t: np.mean([sk.r2_score(*_pixels(t, o, k)) for k in range(4)]),
    ("map", "rmse"): lambda o, t: np.mean([sk.root_mean_squared_error(*_pixels(t, o, k)) for k in range(4)]),
}
PER_CLASS = {
    ("class", "balanced_accuracy"): lambda o, t: sk.recall_score(
        t, o.argmax(1), labels=range(4), average=None, zero_division=np.nan
    ),
    ("class", "macro_f1"): lambda o, t: sk.f1_score(
        t, o.argmax(1), labels=range(4), average=None, zero_division=np.nan
    ),
    ("labels", "mean_average_precision"): lambda o, t: sk.average_precision_score(t, o, average=None),
    ("labels", "macro_f1"): lambda o, t: sk.f1_score(t, o > 0.5, average=None),
    ("numbers", "r2"): lambda o, t: sk.r2_score(t, o, multioutput="raw_values"),
    ("numbers", "rmse"): lambda o, t: sk.root_mean_squared_error(t, o, multioutput="raw_values"),
    ("mask", "mean_iou"): lambda o, t: sk.jaccard_score(t, o, average=None),
    ("map", "r2"): lambda o, t: [sk.r2_score(*_pixels(t, o, k)) for k in range(4)],
    ("map", "rmse"): lambda o, t: [sk.root_mean_squared_error(*_pixels(t, o, k)) for k in range(4)],
}


def _plain(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """The outputs and the true targets of `_draw` as other libraries take them."""
    if kind == "mask":
        true, found = _draw_maps(seed)
        return found.flatten(), true.flatten()
    return _draw_number_maps(seed)[::-1] if kind == "map" else _draw(kind, seed)


ALL = [(kind, metric.name) for kind, metrics in METRICS.items() for metric in metrics]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_metrics_equal_those_of_other_libraries(kind: str, name: str) -> None:
    (metric,) = find_metrics(kind, [name])
    for seed in range(5):
        outputs, truth = _draw(kind, seed)
        expected = REFERENCES[kind, name](*_plain(kind, seed))
        assert image_scores(metric, outputs, truth).mean().item() == pytest.approx(expected, abs=1e-6, rel=1e-6)


def test_values_of_each_class_equal_those_of_scikit_learn() -> None:
    assert set(PER_CLASS) == {(kind, one.name) for kind, every in METRICS.items() for one in every if one.per_class}
    for kind, name in PER_CLASS:
        (metric,) = find_metrics(kind, [name])
        for seed in range(3):
            outputs, truth = _draw(kind, seed)
            expected = PER_CLASS[kind, name](*_plain(kind, seed))
            found = list(class_scores(metric, outputs, truth))
            assert len(found) == len(expected) == 4
            for scores, value in zip(found, expected, strict=True):
                if scores is None:
                    assert np.isnan(value), (kind, name)
                else:
                    assert scores.mean().item() == pytest.approx(value, abs=1e-6, rel=1e-5), (kind, name)


def test_scores_of_one_class_show_the_variance_of_its_value_as_the_bootstrap_does() -> None:
    rng = np.random.default_rng(0)
    draws = [torch.from_numpy(rng.integers(0, 400, 400)) for _ in range(500)]
    ones = torch.ones(400, dtype=torch.float64)
    for kind, name in PER_CLASS:
        (metric,) = find_metrics(kind, [name])
        outputs, truth = _draw(kind, images=400)
        scores = list(class_scores(metric, outputs, truth))[1]
        values = [metric.per_class(outputs[draw], truth[draw], ones)[1].item() for draw in draws]
        assert scores.std().item() / 400**0.5 == pytest.approx(np.std(values), rel=0.15), (kind, name)


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
