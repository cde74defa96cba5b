"""The report page of a run, its figures, and its summary for the documentation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_pretext.config import write_text
from ssl_pretext.probes.results import percent
from ssl_pretext.report import Figure, Section, curves, html_page, markdown_table

__all__ = ["UNKNOWN", "markdown_summary", "write_report"]

UNKNOWN = (
    "The source states neither the image size nor the batch size of pretraining; both are this preset's choice.",
    "It states no augmentation, and none is used here. It states no seed, and reports one run without intervals.",
    "It lists twenty excluded classes, of which eighteen are distinct; so 83 classes are in-domain where it says 81.",
    "It has no untrained encoder and no lightness channel among its baselines; both controls are added here.",
)
DOMAINS = {"in": "in-domain", "out": "out-of-domain"}
CAPTIONS = {
    "train": "Training images: grey as the network sees it, ours, truth",
    "validation": "Validation images, of the same classes but never trained on: grey, ours, truth",
    "excluded": "Excluded classes, never seen in pretraining: grey, ours, truth",
}


def write_report(out: Path, results: Mapping[str, Any], grids: Mapping[str, bytes]) -> None:
    """Writes `report.html` and `figures/` into the folder of a run."""
    plots = figures(results)
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in {**plots, **{f"grid_{name}": png for name, png in grids.items()}}.items():
        (folder / f"{name}.png").write_bytes(png)
    write_text(
        out / "report.html",
        html_page("Does colorizing food photos help to classify them?", sections(results, plots, grids)),
    )


def sections(results: Mapping[str, Any], plots: Mapping[str, bytes], grids: Mapping[str, bytes]) -> list[Section]:
    """The page in the order in which a stranger would ask."""
    data, config = results["data"], results["config"]
    history = results["pretraining"]["history"]
    skipped = data["skipped"]
    return [
        Section(
            f"Data: {data['name']}",
            [data["note"]] if data["note"] else [],
            [{"images": role, "count": f"{count:,}"} for role, count in data["counts"].items()],
        ),
        *(Section(answer["question"], [answer["answer"]]) for answer in results["answers"]),
        Section(
            "Test accuracy of the probes, %",
            [
                f"Means over {config['seeds']} seeds with 95% intervals. A probe is a small classifier trained on "
                f"frozen features with {config['labels_per_class'] or 'all held-out'} labels per class. Chance is "
                + " and ".join(f"{100 * data['chance'][key]:.1f}% {name}" for key, name in DOMAINS.items())
                + ". The untrained latent and the L channel are the controls."
            ],
            summary_rows(results),
        ),
        Section(
            "Colorized images", figures=[Figure(grids[name], CAPTIONS[name]) for name in CAPTIONS if name in grids]
        ),
        Section(
            "Colour quality",
            [
                "PSNR in dB; AuC is the share of pixels within 0..150 of the true ab (grey alone gives about 0.9), "
                "rebalanced with rare colours counting as much as common ones; LPIPS, where shown, of another network "
                "than the loss's; colourfulness after Hasler & Süsstrunk; a runs from green to red, b from blue "
                "to yellow."
            ],
            quality_rows(results),
        ),
        Section(
            "Pretraining",
            [f"Loss per epoch, the sum of {' and '.join(history[0]['terms'])}." if history else "No epochs."],
            figures=[Figure(plots["pretraining"], "Pretraining loss on training and validation images")],
        ),
        *(
            Section(
                f"Probes on {name} classes",
                figures=[
                    Figure(plots[f"probes_{key}"], f"Test accuracy per epoch, {name}; shaded: range over the seeds"),
                    Figure(plots[f"probes_{key}_loss"], f"Test loss per epoch, {name}; shaded: range over the seeds"),
                ],
            )
            for key, name in DOMAINS.items()
        ),
        Section(
            "Unreadable images",
            [f"{len(skipped)} files were skipped." if skipped else "None; every file was read."],
            skipped[:200],
        ),
        Section("What is unknown about the source", UNKNOWN),
        Section("Configuration", [results["command"]], code=json.dumps({**config, **results["environment"]}, indent=2)),
    ]


def figures(results: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG plots by name."""
    history = results["pretraining"]["history"]
    losses = {
        "training": [[row["train_loss"] for row in history]],
        "validation": [[row["val_loss"] for row in history]],
    }
    plots = {"pretraining": curves(losses, title="Pretraining", x_label="epoch", y_label="loss")}
    for key, name in DOMAINS.items():
        for suffix, figure, unit, factor in (
            ("", "test_accuracy", "test accuracy, %", 100),
            ("_loss", "test_loss", "test loss", 1),
        ):
            series: dict[str, list[list[float]]] = {}
            for run in results["probes"]:
                if run["domain"] == key:
                    series.setdefault(run["representation"], []).append(
                        [factor * row[figure] for row in run["history"]]
                    )
            plots[f"probes_{key}{suffix}"] = curves(series, title=f"{name} classes", x_label="epoch", y_label=unit)
    return plots


def summary_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Both domains side by side."""
    rows: dict[str, dict[str, str]] = {}
    for row in results["summary"]:
        shown = rows.setdefault(row["representation"], {"representation": row["representation"]})
        shown[DOMAINS[row["domain"]]] = percent(row["test_accuracy_mean"], row["test_accuracy_ci95"])
    return list(rows.values())


def quality_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Colour quality, with as many digits as mean something."""
    return [
        {
            "images": row["images"],
            **{
                key.replace("_", " "): f"{value:.3f}"
                if key in ("ssim", "auc_raw", "auc_rebalanced", "lpips")
                else f"{value:.1f}"
                for key, value in row.items()
                if isinstance(value, float)
            },
        }
        for row in results["color_quality"]
    ]


def markdown_summary(results: Mapping[str, Any], *, figures_folder: str = "") -> str:
    """A page for the documentation: the same answers and tables, with command, commit and machine."""
    env, data = results["environment"], results["data"]
    machine = f"{env['device']}, {env['processor']}, {env['cores']} cores, torch {env['torch']}"
    parts = [
        f"Data: **{data['name']}**. {data['note']}",
        "```bash\n" + results["command"] + "\n```",
        f"Commit `{env['commit']}`; {machine}; {sum(results['times'].values()) / 60:.1f} minutes.",
        "## Answers",
        *(f"**{answer['question']}** {answer['answer']}" for answer in results["answers"]),
        "## Test accuracy of the conv probe, %",
        f"Means over {results['config']['seeds']} seeds with 95% intervals; chance "
        + ", ".join(f"{100 * data['chance'][key]:.1f}% {name}" for key, name in DOMAINS.items())
        + ".",
        _table(summary_rows(results)),
        "## Colour quality",
        _table(quality_rows(results)),
        "## Images used",
        _table([{"role": role, "images": f"{count:,}"} for role, count in data["counts"].items()]),
    ]
    if figures_folder:
        names = ("pretraining", "probes_in", "probes_out", "probes_in_loss", "probes_out_loss")
        parts += ["## Curves", *(f"![{name.replace('_', ' ')}]({figures_folder}/{name}.png)" for name in names)]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[dict[str, str]]) -> str:
    return markdown_table(rows, list(rows[0]))
