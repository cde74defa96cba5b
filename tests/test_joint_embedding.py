"""Tasks that compare two views: losses against their definitions, learning, and no leak between views."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ssl_pretext as sp
from ssl_pretext.augment import create_augmentation
from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.tasks import joint_embedding

JOINT = ("barlow_twins", "instance_contrast", "simsiam", "vicreg")


def net(channels: int = 3) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
    )


def build(name: str, **options: object) -> sp.PretextTask:
    torch.manual_seed(0)
    return sp.create_task(name, encoder=net(), **{"embed_dim": 24, **options})


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(10, 24) + 1, torch.randn(10, 24)


def test_nt_xent_is_that_of_the_paper():
    first, second = vectors()
    found = build("instance_contrast", temperature=0.2).terms(first, second)["nt_xent"]
    z = F.normalize(torch.cat([first, second]), dim=1).double().numpy()
    similarity = np.exp(z @ z.T / 0.2)
    losses = []
    for i in range(20):
        j = (i + 10) % 20
        losses.append(-np.log(similarity[i, j] / (similarity[i].sum() - similarity[i, i])))
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_vicreg_is_that_of_the_paper():
    first, second = vectors()
    found = build("vicreg").terms(first, second)["vicreg"]
    expected = 25 * ((first - second) ** 2).mean()
    for z in (first.numpy(), second.numpy()):
        expected += 25 * np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() / 2
        covariance = np.cov(z.T)
        expected += (covariance**2).sum() / 24 - (np.diag(covariance) ** 2).sum() / 24
    # The authors' code averages the two hinge losses, as lightly does; the paper adds them.
    assert found.item() == pytest.approx(float(expected), rel=1e-4)


def test_barlow_twins_is_that_of_the_paper():
    first, second = vectors()
    found = build("barlow_twins").terms(first, second)["barlow_twins"]
    a, b = (((z - z.mean(0)) / z.std(0, correction=0)).numpy() for z in (first, second))
    matrix = a.T @ b / 10
    off = matrix - np.diag(np.diag(matrix))
    assert found.item() == pytest.approx(((1 - np.diag(matrix)) ** 2).sum() + 0.005 * (off**2).sum(), rel=1e-4)


def test_simsiam_stops_the_gradient_of_the_target():
    one = build("simsiam").eval()
    first, second = (value.requires_grad_() for value in vectors())
    loss = one.terms(first, second)["negative_cosine_similarity"]
    cosines = [F.cosine_similarity(one.predictor(a), b).mean() for a, b in ((first, second), (second, first))]
    assert loss.item() == pytest.approx(-sum(cosine.item() for cosine in cosines) / 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, first)
    detached = -F.cosine_similarity(one.predictor(first), second.detach()).mean() / 2
    torch.testing.assert_close(gradient, torch.autograd.grad(detached, first)[0])


def dots(count: int) -> torch.Tensor:
    """Images with one dot of a random color, whose place changes from view to view."""
    colors = F.one_hot(torch.arange(count) % 3, 3).float() * torch.rand(count, 1)
    images = torch.full((count, 2, 3, 16, 16), 0.5)
    for view in range(2):
        x, y = torch.randint(2, 12, (2, count))
        for i in range(count):
            images[i, view, :, y[i] : y[i] + 3, x[i] : x[i] + 3] = colors[i][:, None, None]
    return images


@pytest.mark.parametrize("name", JOINT)
def test_views_of_an_image_become_alike_and_images_stay_apart(name):
    """Without a collapse, the features of two views are closer to each other than those of different images."""
    one = build(name)
    optimizer = torch.optim.AdamW(one.parameters(), lr=2e-3)
    torch.manual_seed(1)
    for _ in range(60):
        optimizer.zero_grad()
        one(dots(32)).loss.backward()
        optimizer.step()

    def neighbor_accuracy(task: sp.PretextTask) -> float:
        torch.manual_seed(2)
        first, second = (task.features(view).mean((2, 3)) for view in dots(60).unbind(1))
        assert first.std(0).max() > 1e-3  # not collapsed
        first, second = ((value - first.mean(0)) / (first.std(0) + 1e-6) for value in (first, second))
        nearest = torch.cdist(first, second).argmin(1)
        return float((nearest == torch.arange(60)).float().mean())

    assert neighbor_accuracy(one.eval()) > neighbor_accuracy(build(name).eval()) + 0.05


@pytest.mark.parametrize("name", JOINT)
def test_images_need_views(name):
    with pytest.raises(ArgumentError, match=rf"{name} compares two views .*got \(4, 3, 16, 16\)"):
        build(name)(torch.rand(4, 3, 16, 16))
    with pytest.raises(ArgumentError, match="at least two images"):
        build(name)(torch.rand(1, 2, 3, 16, 16))
    with pytest.raises(ArgumentError, match=r"takes image batches \(B, 2, C, H, W\)"):
        build(name)(torch.rand(4, 3, 3, 16, 16))
    with pytest.raises(ArgumentError, match="embed_dim"):
        build(name, embed_dim=0)


def test_fit_trains_on_views(tmp_path):
    one, seen = build("instance_contrast"), []
    one.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    images = sp.ImageStore.from_arrays(torch.rand(16, 3, 16, 16), [0] * 16)
    history = sp.fit(one, images, sp.FitConfig(out=tmp_path, epochs=2, batch_size=8, device="cpu"), validation=images)
    assert len(history) == 2
    training, validation = ([batch for batch in seen if len(batch) == 8][start::4] for start in (0, 2))
    assert all(batch.shape == (8, 2, 3, 16, 16) for batch in seen)
    assert not torch.equal(training[0][:, 0], training[0][:, 1])
    assert torch.equal(validation[0], validation[1])  # the same views in every epoch
    assert "ColorJitter" in one.trained_on.settings["augment"]


def test_bands_are_not_augmented_like_photos(tmp_path):
    bands = sp.ChannelSpace.bands("joint", ["a", "b"], center=0.5, scale=0.5)
    one = sp.create_task("vicreg", encoder=net(2), channels=sp.Channels(bands), embed_dim=8)
    create_augmentation(one.default_augmentation, photos=False)
    images = sp.ImageStore.from_arrays(torch.rand(16, 2, 16, 16), [0] * 16)
    sp.fit(one, images, sp.FitConfig(out=tmp_path, epochs=1, batch_size=8, device="cpu"))


def test_lightly_is_named_if_it_is_missing(monkeypatch):
    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(joint_embedding, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ssl-pretext\[joint\]'"):
        build("vicreg")


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_the_temperature_is_checked(temperature):
    with pytest.raises(ArgumentError, match="temperature of instance_contrast must be positive and finite"):
        build("instance_contrast", temperature=temperature)
