import io
import re

import pytest
import torch
from PIL import Image

from benchmarks.food101.report import markdown_summary, write_report
from ssl_pretext.errors import ArgumentError
from ssl_pretext.report import Section, curves, html_page, image_grid, markdown_table

NASTY = "<script>alert(1)</script>"


def results() -> dict:
    history = [
        {"epoch": e, "train_loss": 1 / e, "train_accuracy": 0.1, "test_loss": 1.0, "test_accuracy": 0.1 * e}
        for e in (1, 2)
    ]
    summary = [
        {
            "representation": name,
            "domain": domain,
            "probe": "conv",
            "test_accuracy_mean": 0.123,
            "test_accuracy_ci95": half,
        }
        for name, half in (("RGB pixels", 0.045), ("one seed", None))
        for domain in ("in", "out")
    ]
    return {
        "command": "python -m benchmarks.food101",
        "config": {"seeds": 1, "labels_per_class": 4},
        "environment": {"commit": "abc", "device": "cpu", "processor": "some", "cores": 2, "torch": "2"},
        "data": {
            "name": "photos",
            "note": "A note.",
            "counts": {"pretraining": 1234},
            "chance": {"in": 0.25, "out": 0.5},
            "skipped": [{"name": NASTY, "reason": "broken"}],
        },
        "pretraining": {"history": [{"epoch": 1, "train_loss": 1.0, "val_loss": 2.0, "terms": {"smooth_l1": 1.0}}]},
        "probes": [
            {"representation": "RGB pixels", "domain": domain, "probe": "conv", "seed": 0, "history": history}
            for domain in ("in", "out")
        ],
        "summary": summary,
        "color_quality": [{"images": "validation", "count": 4, "psnr": 20.123, "ssim": 0.91234}],
        "answers": [{"question": "Does it help?", "answer": "Not shown.", "evidence": []}],
        "times": {"probes": 60.0},
    }


def test_the_page_stands_alone_and_escapes(tmp_path):
    grid = image_grid([[torch.rand(3, 8, 8)] * 3] * 6, ("grey", "ours", "truth"))
    write_report(tmp_path, results(), {"train": grid, "validation": grid, "excluded": grid})
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']{0,5})", page)
    assert len(sources) == 8
    assert set(sources) == {"data:"}
    assert NASTY not in page
    assert "&lt;script&gt;" in page
    for text in ("Does it help?", "Not shown.", "12.3 ± 4.5", "1,234", "0.912", "What is unknown about the source"):
        assert text in page
    pictures = sorted((tmp_path / "figures").glob("*.png"))
    assert len(pictures) == 8
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 50


def test_the_summary_for_the_documentation_holds_what_the_page_does():
    text = markdown_summary(results(), figures_folder="figures")
    for part in (
        "| RGB pixels | 12.3 ± 4.5 | 12.3 ± 4.5 |",
        "| one seed | 12.3 | 12.3 |",
        "`abc`",
        "figures/probes_in.png",
    ):
        assert part in text


def test_pieces():
    assert markdown_table([{"a": "x|y"}], ["a", "b"]) == "| a | b |\n|---|---|\n| x\\|y |  |"
    assert "&lt;b&gt;" in html_page("<b>", [Section("heading")])
    picture = Image.open(io.BytesIO(curves({"a": [[1, 2], [2, 3]]}, title="t", x_label="x", y_label="y")))
    assert picture.format == "PNG"
    image = torch.zeros(3, 2, 2)
    image[0, 0, 0] = 1
    grid = Image.open(io.BytesIO(image_grid([[image]], ["red"], side=4))).convert("RGB")
    assert grid.getpixel((7, 23)) == (255, 0, 0)
    assert grid.getpixel((8, 23)) == (0, 0, 0) or grid.getpixel((9, 25)) == (0, 0, 0)
    with pytest.raises(ArgumentError, match="rows of 2 images"):
        image_grid([[image]], ["one", "two"])
