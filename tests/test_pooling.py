"""Pooling by name, and the protocol of DINO by names alone."""

import pytest
import timm
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError

VIT = "timm/vit_tiny_patch16_224[img_size=32;depth=2]"


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network() -> sp.FrozenNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sp.FrozenNetwork(VIT, mean=[0.5] * 3, std=[0.5] * 3)


def class_tokens(network: sp.FrozenNetwork, batch: Tensor) -> Tensor:
    """The class tokens after the last norm, from timm itself."""
    body = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0).eval()
    body.load_state_dict(network.encoder.body.state_dict(), strict=False)
    with torch.no_grad():
        return body.forward_features((batch - 0.5) / 0.5)[:, 0]


def test_the_class_token_is_that_of_timm_and_the_mean_that_of_the_map(network: sp.FrozenNetwork) -> None:
    network.encoder.eval()
    batch = images(3)
    with torch.no_grad():
        found = {
            name: network.representation(pooling=name).features(batch) for name in ("map", "gap", "cls", "gap+cls")
        }
    torch.testing.assert_close(found["cls"][:, :, 0, 0], class_tokens(network, batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["gap"][:, :, 0, 0], found["map"].mean(dim=(2, 3)))
    torch.testing.assert_close(found["gap+cls"], torch.cat([found["gap"], found["cls"]], dim=1))


def test_class_tokens_of_torchvision() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sp.FrozenNetwork("torchvision/vit_b_32")
    network.encoder.eval()
    batch = images(2)
    with torch.no_grad():
        token = network.representation(pooling="cls").features(batch)
        tokens = network.encoder.body(network.transform(batch))
    torch.testing.assert_close(token[:, :, 0, 0], tokens[:, 0])


def test_all_controls_of_a_pooled_representation_are_pooled_alike(network: sp.FrozenNetwork, tmp_path) -> None:
    labels = [0, 1] * 8
    found = sp.evaluate(
        {name: network.representation(pooling=name) for name in ("cls", "gap", "gap+cls")},
        (images(16), labels), (images(16, 1), labels), probe="knn", seeds=1,
    )  # fmt: skip
    assert {"cls (untrained)", "gap (untrained)", "gap+cls (untrained)"} <= {*found.names}
    assert found.card["health"]["cls (untrained)"]["channels"] == 192
    assert found.card["health"]["gap+cls"]["channels"] == 384


def test_what_has_no_class_token_is_refused(network: sp.FrozenNetwork) -> None:
    convolutions = sp.FrozenNetwork(nn.Conv2d(3, 4, 3))
    assert convolutions.representation(pooling="gap").features(images(2)).shape == (2, 4, 1, 1)
    for one, options, message in (
        (convolutions, {"pooling": "cls"}, "has none; use 'gap' or 'map'"),
        (network, {"layer": "blocks.0", "pooling": "cls"}, "layer 'blocks.0'"),
        (network, {"pooling": "mean"}, "pooling must be one of map, gap, cls, gap\\+cls; got 'mean'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            one.representation(**options)


def test_the_protocol_of_dino_is_reproduced_by_names_alone(network: sp.FrozenNetwork) -> None:
    """Against the classifier that Caron et al. publish with DINO (eval_knn.py), on class tokens from timm."""
    train, test = images(60), images(40, 1)
    labels, truth = torch.arange(60) % 5, torch.arange(40) % 5
    bank, queries = (nn.functional.normalize(class_tokens(network, one), dim=1) for one in (train, test))
    for k in (20, 5):
        distances, indices = (queries @ bank.T).topk(k, largest=True, sorted=True)
        neighbors = nn.functional.one_hot(labels[indices], 5)
        votes = (neighbors * distances.div(0.07).exp()[:, :, None]).sum(dim=1)
        expected = (votes.argmax(dim=1) == truth).double().mean().item()
        name = "dino_knn" if k == 20 else f"dino_knn[k={k}]"
        found = sp.evaluate(
            {"vit": network.representation(pooling="cls")}, (train, labels), (test, truth), probe=name, seeds=1,
            controls=False,
        )  # fmt: skip
        assert found.values("vit") == [pytest.approx(expected)]
        assert found.card["standardize"] is False
