"""What notebooks show of a report, a curve, a store and a task; and the notebooks in `examples/` run."""

import json
import re
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch
from PIL import Image

import ssl_pretext as sp
from ssl_pretext.data.preview import preview

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "examples/notebooks"
NASTY = "<script>alert(1)</script>"


def data() -> tuple[torch.Tensor, list[int]]:
    return torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)), [
        0,
        1,
    ] * 6


def test_a_report_and_a_curve_are_tables_with_escaped_names():
    representations = {NASTY: sp.Pixels("rgb", size=2), "net": torch.nn.Conv2d(3, 4, 2)}
    report = sp.evaluate(representations, data(), data(), probe="knn", seeds=2)
    curve = sp.label_efficiency(representations, data(), data(), probe="knn", seeds=2, per_class=[1, 3])
    for shown in (report._repr_html_(), curve._repr_html_()):
        assert NASTY not in shown
        assert "&lt;script&gt;" in shown
        assert shown.count("<tr>") == 1 + len(report.names)
    assert "<p>net: " in report._repr_html_()
    assert "data:image/png;base64," in curve._repr_html_()


def test_plots_are_figures_and_write_a_file_only_if_asked(tmp_path):
    report = sp.evaluate({"net": torch.nn.Conv2d(3, 4, 2)}, data(), data(), epochs=1, probe="conv", seeds=2)
    curve = sp.label_efficiency({"net": torch.nn.Conv2d(3, 4, 2)}, data(), data(), probe="knn", seeds=2, per_class=[1])
    figures = [report.plot(), report.plot_differences(), report.plot_layers(["net"]), curve.plot()]
    assert all(isinstance(figure, matplotlib.figure.Figure) for figure in figures)
    assert not [*tmp_path.iterdir()]
    curve.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_store_shows_its_first_images():
    store = sp.ImageStore.from_arrays(*data())
    store.names[0] = NASTY
    shown = store._repr_html_()
    assert NASTY not in shown
    assert shown.count("<img ") == 8
    assert "<td>12</td><td>8×8</td><td>3</td><td>uint8</td>" in shown


def read(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_previews_show_photos_as_they_are_and_the_first_band_in_gray(tmp_path):
    photo = data()[0][0]
    (tmp_path / "photo.png").write_bytes(preview(photo))
    pixels = read(tmp_path / "photo.png")
    np.testing.assert_array_equal(pixels[::12, ::12], photo.permute(1, 2, 0))
    bands = torch.stack([torch.linspace(900, 1000, 64).reshape(8, 8), torch.zeros(8, 8)])
    bands[0, 0, 0] = float("nan")
    (tmp_path / "bands.png").write_bytes(preview(bands))
    gray = read(tmp_path / "bands.png")[::12, ::12]
    assert (gray[0, 0], gray[-1, -1]) == (0, 255)
    assert (np.diff(gray.flatten()[1:].astype(int)) >= 0).all()


def test_a_task_shows_its_options():
    shown = sp.create_task("colorization", encoder="timm/resnet10t[layer=layer1]")._repr_html_()
    assert "<td>encoder</td><td>timm/resnet10t[layer=layer1]</td>" in shown
    assert "<td>trained at</td><td>not trained</td>" in shown


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_notebooks_run(file, tmp_path, monkeypatch, capsys):
    """Every cell runs on few photos, for one epoch and with two seeds; what a cell shows has HTML or is a figure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssl_pretext.data.samples.MAX_PATCHES", {"train": 12, "test": 4})
    cells = json.loads(file.read_text())["cells"]
    scope: dict[str, object] = {}
    shown = 0
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"]
        code = re.sub(r"^%.*$", "", "".join(cell["source"]), flags=re.M)
        code = re.sub(r"epochs=\d+", "epochs=1", code)
        code = re.sub(r"seeds=\d+", "seeds=2", code)
        exec(compile(code, file.name, "exec"), scope)
        last = code.strip().splitlines()[-1]
        if last.isidentifier():
            shown += scope[last]._repr_html_().startswith("<table>")
    assert shown >= 3


def test_the_docs_link_every_notebook():
    page = (ROOT / "docs/howto/notebooks.md").read_text()
    assert [file.name for file in NOTEBOOKS.glob("*.ipynb") if file.name not in page] == []
