"""Pictures and tables of the tutorial, made from its runs: `python -m benchmarks.tutorial_pictures runs`.

Writes to `docs/pictures/` the picture of the home page in two shapes, the photograph that the tutorial colorizes, and
the numbers in its tables. All photographs are freely licensed and ship with scikit-image or scikit-learn.
"""

import base64
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.food101.experiment import environment
from ssl_pretext.cli.colorize import colorize_photo
from ssl_pretext.data import load_photo
from ssl_pretext.probes import ProbeReport
from ssl_pretext.system.files import read_json, write_bytes, write_json, write_text
from ssl_pretext.tasks import Colorization

__all__ = ["draw"]

OUT = Path("docs/pictures")
RUNS = ("first", "colors")  # the folders of the runs in the tutorial
WIDTH, HEIGHT, GAP = 300, 224, 16  # of a panel, in units of the SVG picture
SHAPES = {"wide": 2, "tall": 1}  # number of panels next to each other
UNLABELED = (
    "astronaut", "chelsea", "china", "flower", "rocket", "stereo_motorcycle", "retina", "immunohistochemistry"
)  # fmt: skip
LABELED = {"flower": "flower", "rocket": "rocket", "chelsea": "cat"}
UNSEEN = "coffee"  # a photograph that was not used in pretraining
COLORED = (UNSEEN, "flower")
BARS = {
    "cross_channel_contrast": "pretrained",
    "cross_channel_contrast (untrained)": "the same, untrained",
    "color histogram": "color histogram",
    "pixels rgb": "pixels",
}
STYLE = """
svg { --ink: #1d2733; --soft: #5b6775; --card: #f3f6f8; --line: #d5dce3; --ours: #00897b; --other: #a9b4bf; --on: #fff;
  font: 13px Roboto, 'Helvetica Neue', Arial, sans-serif; fill: var(--ink); }
svg:target { --ink: #e8ebef; --soft: #a7b0bc; --card: #2a303d; --line: #444d5c; --ours: #26a69a; --other: #66717f;
  --on: #10151c; }
.card { fill: var(--card); stroke: var(--line); } .ours { fill: var(--ours); } .other { fill: var(--other); }
.soft { fill: var(--soft); font-size: 12px; } .head { font-size: 15px; font-weight: 600; } .on { fill: var(--on); }
.line { stroke: var(--soft); fill: none; stroke-width: 1.5; }
.gone { fill: none; stroke: var(--soft); stroke-dasharray: 4 3; }
.middle { text-anchor: middle; } .end { text-anchor: end; } .bold { font-weight: 600; }
"""


def draw(runs: Path, out: Path = OUT) -> None:
    """Writes the pictures, and the numbers of the tables with the options and the machine that they come from.

    Args:
        runs: Folder with the runs of the tutorial.
        out: Folder for the pictures.
    """
    reports = {run: _reports(runs / run / "probe") for run in RUNS}
    rows = {row["representation"]: row for row in reports["first"]["linear"].summary()}
    colorization = Colorization.from_pretrained(runs / "colors/task")
    panels = [
        panel(1, "Many photos, no labels", _photos()),
        panel(2, "Predict what is hidden", _predictions(colorization)),
        panel(3, "Keep the encoders", _labels()),
        panel(4, "Did it help?", _bars({label: rows[name] for name, label in BARS.items()})),
    ]
    for shape, columns in SHAPES.items():
        write_text(out / f"idea-{shape}.svg", _page(panels, columns))
    photo = torch.from_numpy(load_photo(UNSEEN).copy()).permute(2, 0, 1)
    colored = colorize_photo(colorization, photo)
    for name, pixels in (("coffee", photo), ("colored", colored)):
        write_bytes(out / f"{name}.jpg", _jpeg(pixels, (300, 200)))
    tables = {
        run: {
            "options": read_json(runs / run / "probe/card.json")["options"],
            "rows": {probe: report.rows() for probe, report in by_probe.items()},
            "summary": {probe: report.summary() for probe, report in by_probe.items()},
        }
        for run, by_probe in reports.items()
    }
    command = "python -m benchmarks.tutorial_pictures runs, after the commands of docs/tutorial.md"
    write_json(out / "tutorial.json", {"command": command, "environment": environment("cpu"), "runs": tables})


def _reports(folder: Path) -> dict[str, ProbeReport]:
    probes = read_json(folder / "card.json")["probes"]
    return {probe: ProbeReport.from_json(folder / f"{probe}.json") for probe in probes}


def panel(number: int, title: str, content: str) -> str:
    """A panel with a numbered heading, as SVG."""
    return (
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>'
        f'<circle class="ours" cx="24" cy="24" r="11"/><text class="on middle bold" x="24" y="28.5">{number}</text>'
        f'<text class="head" x="43" y="29">{title}</text>{content}'
    )


def _page(panels: Sequence[str], columns: int) -> str:
    rows = -(-len(panels) // columns)
    width, height = (count * (length + GAP) - GAP for count, length in ((columns, WIDTH), (rows, HEIGHT)))
    placed = "".join(
        f'<g transform="translate({i % columns * (WIDTH + GAP)} {i // columns * (HEIGHT + GAP)})">{content}</g>\n'
        for i, content in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" id="dark" role="img">'
        f"<style>{STYLE}</style>\n{placed}</svg>\n"
    )


def _photos() -> str:
    size, step = 64, 69.3
    photos = (_image(_square(name), 14 + i % 4 * step, 46 + i // 4 * step, size) for i, name in enumerate(UNLABELED))
    return "".join(photos) + _text("Any folder of images; no annotation needed.", 14, 208, "soft")


def _predictions(task: Colorization) -> str:
    """Two photographs, as the task gets them and as it colors them."""
    return "".join(_direction(42 + 90 * i, task, _square(name, size=192)) for i, name in enumerate(COLORED))


def _direction(y: float, task: Colorization, photo: Tensor) -> str:
    """A row of the panel: the lightness of a photograph, an encoder, a decoder and the predicted colors."""
    gray = (task.lightness(photo[None])[0].clamp(0, 1) * 255).byte()
    return (
        _image(gray, 18, y, 68)
        + _image(colorize_photo(task, photo), 214, y, 68)
        + _network(98, y + 4, 40)
        + f'<path class="gone" d="M162 {y + 24} L202 {y + 4} V{y + 64} L162 {y + 44} Z"/>'
        + _text("encoder", 118, y + 82, "soft middle")
        + _text("decoder", 182, y + 82, "soft middle")
        + _text("lightness", 52, y + 82, "soft middle")
        + _text("colors?", 248, y + 82, "soft middle")
    )


def _labels() -> str:
    thumbs = "".join(
        _image(_square(name), 14, 46 + i * 56, 50) + _text(word, 72, 75 + i * 56)
        for i, (name, word) in enumerate(LABELED.items())
    )
    return (
        thumbs
        + '<path class="line" d="M116 128 H134 M129 123 L134 128 L129 133 M192 128 H210 M205 123 L210 128 L205 133"/>'
        + _network(143, 58, 40)
        + _network(143, 138, 40)
        + _text("frozen", 163, 132, "soft middle")
        + '<rect class="other" x="217" y="108" width="68" height="40" rx="5"/>'
        + _text("classifier", 251, 132, "middle")
        + _text("learns from", 251, 166, "soft middle")
        + _text("few labels", 251, 181, "soft middle")
    )


def _bars(rows: Mapping[str, Mapping[str, Any]]) -> str:
    left, full = 142, 112
    parts = []
    for i, (label, row) in enumerate(rows.items()):
        y, mean, half = 54 + 33 * i, row["test_accuracy_mean"], row["test_accuracy_ci95"]
        kind, bold = ("ours", " bold") if i == 0 else ("other", "")
        low, high = left + full * (mean - half), left + full * (mean + half)
        parts += [
            _text(label, left - 8, y + 16, f"end{bold}"),
            f'<rect class="{kind}" x="{left}" y="{y}" width="{full * mean:.1f}" height="22" rx="2"/>',
            f'<path class="line" d="M{low:.1f} {y + 11} H{high:.1f} m0 -4 v8 M{low:.1f} {y + 7} v8"/>',
            _text(f"{100 * mean:.0f}%", WIDTH - 14, y + 16, f"end{bold}"),
        ]
    return "".join(parts) + _text("Test accuracy with five labels per class", 14, 208, "soft")


def _network(x: float, y: float, width: float) -> str:
    return f'<path class="ours" d="M{x} {y} L{x + width} {y + 20} V{y + 40} L{x} {y + 60} Z"/>'


def _text(text: str, x: float, y: float, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{text}</text>'


def _image(pixels: Tensor, x: float, y: float, size: float) -> str:
    data = base64.b64encode(_jpeg(pixels, (2 * round(size),) * 2)).decode()
    return f'<image href="data:image/jpeg;base64,{data}" x="{x:.1f}" y="{y}" width="{size}" height="{size}"/>'


def _jpeg(pixels: Tensor, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    _picture(pixels).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _square(name: str, *, size: int = 256) -> Tensor:
    """The center of a sample photograph, `(3, size, size)` in `uint8`."""
    photo = Image.fromarray(load_photo(name))
    edge = min(photo.size)
    left, top = (photo.width - edge) // 2, (photo.height - edge) // 2
    cut = photo.crop((left, top, left + edge, top + edge)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
