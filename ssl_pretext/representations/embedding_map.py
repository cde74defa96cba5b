"""A page that shows embeddings: a map in two dimensions with pictures, and the nearest neighbors of some images."""

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.reporting.page import Section, html_page, render
from ssl_pretext.representations.embedding import Embeddings
from ssl_pretext.spacing import evenly_spaced
from ssl_pretext.system.notebook import data_uri

__all__ = [
    "MAPS",
    "MOST_POINTS",
    "check_map",
    "embedding_page",
    "nearest",
    "principal_components",
    "project",
    "sample_rows",
]

MAPS = ("pca", "tsne", "umap")
MOST_POINTS = 600  # images on a map; their pictures make about 2 MB of the page
QUERIES, NEIGHBORS = 8, 6
THUMBNAIL = 64  # pixels of the longer side
MOST_COLORS = 12  # labels with a color of their own; more could not be told apart
SIZE = 100  # width and height of the map in units of its coordinates
ABOUT = {
    "pca": "The axes are the two directions in which the features vary most (principal components); they show {}.",
    "tsne": "t-SNE keeps neighbors together; distances between groups mean little.",
    "umap": "UMAP keeps neighbors together; distances between groups mean little.",
}


class Point(NamedTuple):
    """An image on the map: its place, its name, its label, its color and its picture as a data URI."""

    x: float
    y: float
    name: str
    label: str
    color: str
    picture: str


class Neighbor(NamedTuple):
    """An image with its cosine similarity to another one, which is None for the image itself."""

    point: Point
    cosine: float | None


def check_map(kind: str) -> None:
    """Raises unless a map of this kind can be computed.

    Raises:
        ArgumentError: There is no such map.
        MissingDependencyError: The package that computes it is not installed.
    """
    if kind not in MAPS:
        raise ArgumentError(f"a map is one of {', '.join(MAPS)}; got {kind!r}")
    if kind != "pca":
        _mapper(kind, 4)


def _mapper(kind: str, count: int) -> Any:
    """Creates the model that maps so many images by their cosines."""
    try:
        if kind == "tsne":
            from sklearn.manifold import TSNE

            return TSNE(metric="cosine", init="random", perplexity=min(30.0, (count - 1) / 3), random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # about TensorFlow, which is not needed
            from umap import UMAP

        return UMAP(metric="cosine", n_neighbors=min(15, count - 1), random_state=0, n_jobs=1)
    except ImportError as error:
        raise MissingDependencyError(f"a map by {kind} needs a package: pip install 'ssl-pretext[maps]'") from error


def sample_rows(count: int, most: int = MOST_POINTS) -> list[int]:
    """Draws the positions of at most `most` of `count` images, always the same ones, in ascending order."""
    if count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, most, replace=False).tolist())


def project(features: NDArray[np.float32], kind: str) -> tuple[NDArray[np.float64], float]:
    """Projects features to a plane.

    Args:
        features: Features `(N, F)`.
        kind: One of `MAPS`. UMAP and t-SNE compare features by their cosine.

    Returns:
        Coordinates `(N, 2)`, and the fraction of the variance that the principal components show (0 for other maps).
        The same features give the same map.

    Raises:
        ArgumentError: There is no such map, or there are fewer than 4 images.
        MissingDependencyError: The package that computes the map is not installed.
    """
    check_map(kind)
    if len(features) < 4:
        raise ArgumentError(f"a map needs at least 4 images, got {len(features)}")
    values = features.astype(np.float64)
    if kind == "pca":
        return principal_components(values)
    return np.asarray(_mapper(kind, len(values)).fit_transform(values), dtype=np.float64), 0.0


def principal_components(features: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], float]:
    """Computes the first two principal components of features.

    Args:
        features: Features `(N, F)`.

    Returns:
        Coordinates `(N, 2)`, and the fraction of the variance that they hold.
    """
    values = features.astype(np.float64)
    left, scales, directions = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    size = min(2, len(scales))
    # The sign of a component is arbitrary; its largest loading is made positive, so that maps can be compared.
    largest = np.abs(directions[:size]).argmax(axis=1)
    signs = np.where(directions[np.arange(size), largest] < 0, -1.0, 1.0)
    places = np.zeros((len(values), 2))
    places[:, :size] = left[:, :size] * scales[:size] * signs
    total = float(np.square(scales).sum())
    return places, float(np.square(scales[:size]).sum()) / total if total else 0.0


def nearest(features: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Finds the nearest other images of each image by the cosine of their features, the nearest one first.

    Args:
        features: Features `(N, F)`.

    Returns:
        Positions and cosines, each `(N, min(6, N - 1))`.
    """
    values = features.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(lengths > 0, lengths, 1.0)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBORS, len(values) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)


def embedding_page(found: Embeddings, images: ImageStore, *, kind: str, title: str, total: int) -> str:
    """Renders the map of a sample of embeddings, with their pictures and neighbors, as a page that needs no other file.

    Args:
        found: The embeddings of the sample.
        images: Their images, in the same order.
        kind: One of `MAPS`.
        title: Title of the page.
        total: Number of embeddings that the sample was drawn from.

    Raises:
        ArgumentError: There are fewer than 4 images.
        MissingDependencyError: jinja2, or the package that computes the map, is not installed.
    """
    places, shown = project(np.asarray(found.features), kind)
    low, span = places.min(axis=0), np.ptp(places, axis=0)
    places = 4 + (SIZE - 8) * (places - low) / np.where(span > 0, span, 1.0)
    labels = [label or "unknown" for label in found.labels] if found.labels is not None else [""] * len(found)
    colors = _colors(labels) if found.labels is not None else {}
    points = [
        Point(round(float(x), 2), round(SIZE - float(y), 2), name, label, colors.get(label, "var(--soft)"), picture)
        for (x, y), name, label, picture in zip(places, found.names, labels, _pictures(images), strict=True)
    ]
    order, cosines = nearest(np.asarray(found.features))
    queries = evenly_spaced(len(points), QUERIES).tolist()
    rows = [
        [
            Neighbor(points[query], None),
            *(Neighbor(points[i], float(cosine)) for i, cosine in zip(order[query], cosines[query], strict=True)),
        ]
        for query in queries
    ]
    sampled = f"A sample of {len(points):,} of {total:,} images" if len(points) < total else f"All {total:,} images"
    about = ABOUT[kind].format(f"{shown:.0%} of the variance")
    legend = [(label, color, labels.count(label)) for label, color in colors.items()]
    if others := sum(label not in colors for label in labels) if colors else 0:
        legend.append(("other labels", "var(--soft)", others))
    html = {"size": SIZE, "points": points, "legend": legend}
    return html_page(
        title,
        [
            Section(
                "Map",
                [
                    f"{sampled}, {found.features.shape[1]:,} features each. {about} Point at a dot, or touch it, to "
                    "see its image.",
                    *_agreement(found.labels, order),
                ],
                html=render(MAP, **html),
            ),
            Section(
                "Nearest neighbors",
                [
                    f"The first image of each row, and the {len(rows[0]) - 1} others in the map whose features are "
                    "most similar to its own, with the cosine of the angle between them (1 is the same direction)."
                ],
                html=render(ROWS, rows=rows),
            ),
        ],
    )


def _agreement(labels: Sequence[str] | None, order: NDArray[np.int64]) -> list[str]:
    """Says how often the nearest neighbor of an image has its label."""
    known = [i for i, label in enumerate(labels or []) if label and (labels or [])[order[i, 0]]]
    if labels is None or not known:
        return []
    same = sum(labels[i] == labels[order[i, 0]] for i in known) / len(known)
    counts = Counter(labels[i] for i in known)
    # Of pairs of different images.
    chance = sum(n * (n - 1) for n in counts.values()) / max(1, len(known) * (len(known) - 1))
    return [
        f"The nearest neighbor has the same label for {same:.0%} of these images; of two images drawn at random, "
        f"{chance:.0%} have the same label."
    ]


def _colors(labels: Sequence[str]) -> dict[str, str]:
    """Returns a color for each of the most frequent labels, sorted by name."""
    frequent = sorted(label for label, _ in Counter(labels).most_common(MOST_COLORS))
    # Neighbors on the color wheel differ in lightness, too.
    return {label: f"hsl({round(360 * i / len(frequent))} 70% {(42, 58)[i % 2]}%)" for i, label in enumerate(frequent)}


def _pictures(images: ImageStore) -> list[str]:
    """Returns a small picture of each image as a data URI.

    Photos are shown as they are. Of other images, the first three channels are shown, or the first one if there are
    fewer, each stretched between the 1st and the 99th percentile of its values in all images.
    """
    from PIL import Image

    shown = 3 if images.num_channels >= 3 else 1
    pixels = images.images()[:, :shown]
    if not images.are_photos:
        values = pixels.double()
        channels = values.transpose(0, 1).flatten(1)
        bounds = [np.nanpercentile(channel.numpy(), (1, 99)) for channel in channels]
        low, high = (torch.tensor([bound[i] for bound in bounds]).view(1, -1, 1, 1) for i in (0, 1))
        pixels = (255 * ((values - low) / (high - low).clamp(min=1e-12)).nan_to_num(0)).clamp(0, 255).round().byte()
    found = []
    for image in pixels:
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array if shown == 3 else array[:, :, 0])
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        found.append(data_uri(buffer.getvalue(), "jpeg"))
    return found


MAP = """\
<style>
.map { position: relative; max-width: 46rem; }
.map svg { display: block; width: 100%; height: auto; background: var(--tint); border-radius: 4px; }
.map circle { r: .9px; fill-opacity: .85; cursor: pointer; } .map circle.on { r: 1.8px; stroke: var(--ink);
  stroke-width: .3px; }
.shown { display: flex; gap: .7rem; align-items: center; min-height: 80px; margin: .5rem 0; overflow-wrap: anywhere; }
.shown img { width: 80px; height: 80px; object-fit: contain; image-rendering: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .35em; }
.legend span { overflow-wrap: anywhere; }
</style>
<div class="map">
<div class="legend">
{% for label, color, count in legend %}
<span><i style="background: {{ color }}"></i>{{ label }} ({{ count }})</span>
{% endfor %}
</div>
<div class="shown" aria-live="polite">The image and its name appear here.</div>
<svg viewBox="0 0 {{ size }} {{ size }}" role="img" aria-label="Map of the images">
{% for point in points %}
<circle cx="{{ point.x }}" cy="{{ point.y }}" r="0.9" fill="{{ point.color }}" data-name="{{ point.name }}"
 data-label="{{ point.label }}" data-picture="{{ point.picture }}"/>
{% endfor %}
</svg>
</div>
<script>
for (const map of document.querySelectorAll(".map")) {
  const shown = map.querySelector(".shown");
  const show = (event) => {
    const point = event.target.closest("circle");
    if (!point) return;
    for (const other of map.querySelectorAll(".on")) other.classList.remove("on");
    point.classList.add("on");
    const picture = document.createElement("img"), text = document.createElement("span");
    picture.src = point.dataset.picture; picture.alt = "";
    text.textContent = [point.dataset.label, point.dataset.name].filter(Boolean).join(" · ");
    shown.replaceChildren(picture, text);
  };
  map.addEventListener("pointerover", show); map.addEventListener("click", show);
}
</script>
"""

ROWS = """\
<style>
.near { display: flex; gap: .5rem; overflow-x: auto; padding: .4rem 0; border-bottom: 1px solid var(--line); }
.near figure { flex: 0 1 6.5rem; min-width: 3.4rem; margin: 0; } .near figure:first-child { margin-right: .8rem; }
.near img { width: 100%; aspect-ratio: 1; object-fit: contain; background: none; }
.near figcaption { font-size: .75rem; line-height: 1.2; overflow-wrap: anywhere; }
@media (max-width: 44rem) { .near { flex-wrap: wrap; } .near figure { flex-basis: 22%; } }
</style>
{% for row in rows %}
<div class="near">
{% for neighbor in row %}
<figure title="{{ neighbor.point.name }}"><img src="{{ neighbor.point.picture }}" alt="{{ neighbor.point.name }}">
<figcaption>{{ neighbor.point.label }}{% if neighbor.cosine is not none %}<br>{{ "%.2f" % neighbor.cosine }}{% endif %}
</figcaption></figure>
{% endfor %}
</div>
{% endfor %}
"""
