"""Statistics that show whether features have collapsed, compared with NumPy."""

import numpy as np
import pytest
import torch

from ssl_pretext.representations.collapse import collapse_warnings, feature_health


def test_effective_rank_is_that_of_its_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(50, 7, 2, 2, generator=draw) * torch.arange(1, 8).view(-1, 1, 1)
    singular = np.linalg.svd(maps.double().mean((2, 3)).numpy(), compute_uv=False)
    fractions = singular / singular.sum() + 1e-7
    health = feature_health(maps)
    assert health["effective_rank"] == pytest.approx(np.exp(-(fractions * np.log(fractions)).sum()), rel=1e-6)
    assert health["std"] == pytest.approx(maps.numpy().std(axis=(0, 2, 3)).mean(), rel=1e-5)
    assert health["collapsed_channels"] == 0


def test_collapsed_channels_are_counted() -> None:
    maps = torch.randn(20, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    maps[:, 1] = 7.0
    maps[:, 3] *= 1e-3
    health = feature_health(maps)
    assert health["collapsed_channels"] == 2
    one_direction = torch.randn(20, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(1, 5, 1, 1)
    assert feature_health(one_direction)["effective_rank"] == pytest.approx(1, abs=1e-3)


def test_the_difference_between_images_is_that_of_its_definition() -> None:
    maps = torch.randn(30, 5, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 2
    values = maps.double().numpy()
    expected = values.var(axis=0).mean() ** 0.5 / (values**2).mean() ** 0.5
    health = feature_health(maps)
    assert health["between_images"] == pytest.approx(expected, rel=1e-5)
    assert not collapse_warnings({"mine": health})
    assert "mine has collapsed" in collapse_warnings({"mine": feature_health(maps * 0.01 + 2)})[0]
