"""Maps of embeddings: projections, neighbors, and the page that shows them."""

import re

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.representations import Embeddings
from ssl_pretext.representations.embedding_map import check_map, embedding_page, nearest, project, sample_rows

FEATURES = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32) * np.arange(1, 8, dtype=np.float32)


def test_principal_components_are_those_of_scikit_learn():
    places, shown = project(FEATURES, "pca")
    reference = PCA(n_components=2).fit(FEATURES)
    np.testing.assert_allclose(np.abs(places), np.abs(reference.transform(FEATURES)), rtol=1e-4, atol=1e-4)
    assert shown == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-5)
    np.testing.assert_array_equal(places, project(FEATURES, "pca")[0])


def test_components_of_one_feature_and_of_none_are_flat():
    places, shown = project(FEATURES[:, :1], "pca")
    assert not places[:, 1].any()
    assert shown == pytest.approx(1)
    assert project(np.ones((5, 3), np.float32), "pca")[1] == 0


def test_tsne_keeps_two_groups_apart():
    groups = np.repeat([[1.0, 0.0], [0.0, 1.0]], 20, axis=0)
    noisy = (groups + np.random.default_rng(0).normal(scale=0.01, size=groups.shape)).astype(np.float32)
    places, _ = project(noisy, "tsne")
    distances = np.linalg.norm(places[:, None] - places, axis=2) + np.diag([np.inf] * 40)
    assert (distances.argmin(axis=1) // 20 == np.arange(40) // 20).all()


def test_umap_gives_a_plane():
    pytest.importorskip("umap", reason="umap-learn is not installed")
    assert project(FEATURES, "umap")[0].shape == (40, 2)


def test_maps_that_cannot_be_computed_are_refused(monkeypatch):
    with pytest.raises(ArgumentError, match="a map is one of pca, tsne, umap; got 'lle'"):
        check_map("lle")
    with pytest.raises(ArgumentError, match="a map needs at least 4 images, got 3"):
        project(FEATURES[:3], "pca")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ssl-pretext\[maps\]'"):
        check_map("umap")


def test_neighbors_are_those_of_scikit_learn():
    order, cosines = nearest(FEATURES)
    distances, reference = NearestNeighbors(metric="cosine", n_neighbors=7).fit(FEATURES).kneighbors(FEATURES)
    np.testing.assert_array_equal(order, reference[:, 1:])
    np.testing.assert_allclose(cosines, 1 - distances[:, 1:], atol=1e-5)
    assert nearest(np.zeros((3, 2), np.float32))[0].shape == (3, 2)


def test_samples_are_ascending_and_always_the_same():
    assert sample_rows(3) == [0, 1, 2]
    rows = sample_rows(1000, 50)
    assert rows == sorted({*rows}) == sample_rows(1000, 50)
    assert len(rows) == 50
    assert rows[-1] < 1000


def page(kind="pca", labels=None, channels=3, dtype=torch.uint8):
    values = torch.randint(0, 255, (40, channels, 8, 8), generator=torch.Generator().manual_seed(0)).to(dtype)
    names = [f"<b>{i}</b>&.png" for i in range(40)]
    found = Embeddings(FEATURES, names, labels)
    return embedding_page(found, sp.ImageStore.from_arrays(values), kind=kind, title="<i>title</i>", total=90)


def test_the_page_needs_no_other_file_and_escapes_names():
    text = page(labels=[f"<u>{i % 2}</u>" for i in range(40)])
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?://""", text)
    assert not re.search("<(b|u|i)>", text)
    assert text.count("<circle ") == 40
    assert text.count("&lt;u&gt;0&lt;/u&gt; (20)") == 1, "the legend"
    assert "A sample of 40 of 90 images, 7 features each." in text
    order, _ = nearest(FEATURES)
    same = np.mean(order[:, 0] % 2 == np.arange(40) % 2)
    assert f"The nearest neighbor has the same label for {same:.0%} of these images; of two images drawn at" in text


def test_images_without_labels_and_of_other_channels_have_a_page():
    text = page(channels=5, dtype=torch.float32)
    assert "same label" not in text
    assert text.count("data:image/jpeg;base64,") > 40
    assert page(channels=1, dtype=torch.int16).count("<circle ") == 40


def test_rare_labels_share_a_color():
    text = page(labels=[f"class {i % 20}" for i in range(40)])
    assert "other labels (16)" in text
    assert len({*re.findall(r'fill="(hsl[^"]+)"', text)}) == 12
