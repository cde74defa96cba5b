"""Report pages of the experiment, Markdown tables and image grids."""

import io
import re

import pytest
import torch
from PIL import Image
from torch import nn

import ssl_pretext as sp
from benchmarks.food101.report import as_markdown, draw, markdown_summary, write_report
from benchmarks.food101.studies import DOMAINS, LATENT, LAYERS, Findings
from ssl_pretext.errors import ArgumentError
from ssl_pretext.reporting.page import Figure, Section, html_page, image_grid, markdown_table

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Reports of the conv and the linear probe on noise, with the names of the experiment."""
    images, labels = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8), [0, 1] * 8
    net = sp.FrozenNetwork(nn.Conv2d(3, 4, 2, stride=2))
    named = {LATENT: net.representation(), NASTY: sp.Pixels("lab:L")}
    layers = {name: net.backbone().representation(name=name) for name in LAYERS}
    pair = ((images, labels), (images, labels))
    reports = {
        "conv": {domain: sp.evaluate(named, *pair, probe="documented_conv", epochs=2, seeds=2) for domain in DOMAINS},
        "linear": {domain: sp.evaluate(named | layers, *pair, probe="linear", seeds=2) for domain in DOMAINS},
    }
    return Findings(reports, {"out": sp.label_efficiency(named, *pair, per_class=[1, 2], probe="knn", seeds=2)})


HUES = {"colored": 0.9, "colored_truth": 0.8, "hue_yellow": 0.59, "hue_yellow_truth": 0.501}


def results(findings: Findings) -> dict:
    return {
        "command": "python -m benchmarks.food101",
        "config": {"seeds": 2, "labels_per_class": 4, "epochs": 1, "image_size": 16},
        "environment": {"commit": "abc", "device": "cpu", "processor": "some", "cores": 2, "torch": "2"},
        "data": {
            "name": "photos",
            "note": "A note.",
            "counts": {"pretraining": 1234},
            "skipped": [{"name": NASTY, "reason": "broken"}],
        },
        "pretraining": {"history": [{"epoch": 1, "train_loss": 1.0, "val_loss": 2.0, "terms": {"smooth_l1": 1.0}}]},
        **findings.results(),
        "color_quality": [
            {"images": "validation", "colors": colors, "count": 4, "psnr": 20.123, "ssim": 0.91234, **HUES}
            for colors in ("predicted", "gray")
        ],
        "answers": [{"question": "Does it help?", "answer": "Not shown.", "evidence": []}],
        "times": {"probes": 60.0},
    }


PLOTS = {
    "pretraining",
    *(
        f"{plot}_{domain}"
        for plot in ("conv", "conv_loss", "conv_differences", "linear_differences", "layers")
        for domain in DOMAINS
    ),
    "labels_out",
}


def test_the_page_needs_no_other_file_and_escapes_text(tmp_path, findings):
    grid = image_grid([[torch.rand(3, 8, 8)] * 3] * 6, ("gray", "ours", "truth"))
    write_report(tmp_path, results(findings), {"train": grid, "validation": grid, "excluded": grid})
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']{0,5})", page)
    assert len(sources) == len(PLOTS) + 3
    assert set(sources) == {"data:"}
    assert NASTY not in page
    assert "&lt;script&gt;" in page
    shown = findings.reports["conv"]["in"].text(LATENT)
    for text in ("Does it help?", "Not shown.", shown, "1,234", "0.912", "What is unknown about the source", "RankMe"):
        assert text in page
    answer = findings.reports["conv"]["in"].verdict(LATENT).answer
    assert f'<p class="answer">{answer}</p>' in page
    assert "Warning, in-domain: 16 labels give only 2 training steps, too few for the documented_conv probe" in page
    assert "too few for the linear probe" not in page
    assert "<th>yellow, %</th>" in page
    pictures = sorted((tmp_path / "figures").glob("*.png"))
    assert {picture.stem for picture in pictures} == PLOTS | {"grid_train", "grid_validation", "grid_excluded"}
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 50


def test_the_summary_for_the_documentation_shows_the_results_of_the_page(tmp_path, findings):
    found = results(findings)
    draw(tmp_path, found)
    text = markdown_summary(found, figures=tmp_path, link="figures")
    shown = [findings.reports["conv"][domain].text(LATENT) for domain in DOMAINS]
    assert f"| {LATENT} | {shown[0]} | {shown[1]} |" in text
    for part in ("`abc`", "figures/conv_in.png", "figures/labels_out.png", "effective rank", "chance 50.0%"):
        assert part in text
    assert "Warning, out-of-domain: 16 labels give only 2 training steps" in text
    assert "| images | colors | psnr | ssim | colored, % | yellow, % |" in text
    assert "| validation | predicted | 20.1 | 0.912 | 90.0 | 59.0 |" in text
    assert "| validation | true |  |  | 80.0 | 50.1 |" in text
    assert "| validation | gray | 20.1 |" in text
    old = found | {"color_quality": [{"images": "train", "psnr": 20.1, "mean_b": 1.0, "mean_b_truth": 2.0}]}
    old_text = markdown_summary(old, figures=tmp_path, link="figures")
    assert "| train | predicted | 20.1 | 1.0 |\n| train | true |  | 2.0 |" in old_text
    assert "labels_in" not in text
    assert "grid" not in text, "no photographs"


@pytest.mark.parametrize(("all_rows", "read"), [(True, "on every layer"), (False, "on the latent")])
def test_the_linear_study_is_named_by_what_it_read(all_rows, read, tmp_path, findings):
    found = results(findings)
    found["config"]["all_rows"] = all_rows
    write_report(tmp_path, found, {})
    page = (tmp_path / "report.html").read_text()
    for text in (page, markdown_summary(found, figures=tmp_path, link="figures")):
        assert re.findall("Test accuracy, %: linear probes (on [a-z ]*[a-z])", text) == [read]


def test_tables_pages_and_grids():
    assert as_markdown("Lead:\n- a\n- b\nPlain.\nMore:\n- c") == "Lead:\n\n- a\n- b\n\nPlain.\n\nMore:\n\n- c"
    assert markdown_table([{"a": "x|y"}], ["a", "b"]) == "| a | b |\n|---|---|\n| x\\|y |  |"
    assert "&lt;b&gt;" in html_page("<b>", [Section("heading")])
    table = html_page("page", [Section("heading", table=[{"a": 1, "b": 2, "c": 3, "<d>": 4}])])
    for part in ('<table class="wide">', '<td data-column="&lt;d&gt;">4</td>'):
        assert part in table, "on a phone, each value has its column's name beside it"
    wide = html_page("page", [Section("heading", table=[{"a": 1}], figures=[Figure(b"", "a plot")])])
    assert all(f'<div class="scroll"><{part}' in wide for part in ("img", "table")), (
        "on a phone, wide parts must scroll without the page"
    )
    image = torch.zeros(3, 2, 2)
    image[0, 0, 0] = 1
    grid = Image.open(io.BytesIO(image_grid([[image]], ["red"], side=4))).convert("RGB")
    assert grid.getpixel((7, 23)) == (255, 0, 0)
    assert grid.getpixel((8, 23)) == (0, 0, 0) or grid.getpixel((9, 25)) == (0, 0, 0)
    with pytest.raises(ArgumentError, match=r"rows of 2 images, one for each title; got rows of \[1\] images"):
        image_grid([[image]], ["one", "two"])
