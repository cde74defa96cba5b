"""The report page of a run, its figures, and its summary for the documentation."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.food101.presets import STUDIES
from benchmarks.food101.studies import DOMAINS, LATENT, LAYERS, Findings
from ssl_pretext.probes.report import percent
from ssl_pretext.reporting.page import Figure, Section, html_page, markdown_table
from ssl_pretext.reporting.plots import curves
from ssl_pretext.representations.collapse import Health, collapse_warnings, health_rows
from ssl_pretext.representations.network import IMAGENET_LABELS
from ssl_pretext.system.files import write_bytes, write_text

__all__ = ["UNKNOWN", "markdown_summary", "side_by_side", "write_report"]

UNKNOWN = (
    "The source states neither the image size nor the batch size of pretraining; both are this preset's choice.",
    "It states no augmentation, and none is used here. It states no seed, and reports one run without intervals.",
    "It lists twenty excluded classes, of which eighteen are distinct; so 83 classes are in-domain where it says 81.",
    "It has no untrained encoder and no lightness channel among its baselines; both controls are added here.",
)
PLOTS_OF = {"conv": ("conv_differences", "conv", "conv_loss"), "linear": ("linear_differences", "layers")}
CAPTIONS = {
    "pretraining": "Pretraining loss on training and validation images",
    "conv": "Test accuracy per epoch of the conv probe; shaded: range over the seeds",
    "conv_loss": "Test loss per epoch of the conv probe; shaded: range over the seeds",
    "conv_differences": "Conv probe, colorization encoder minus each control, 95% intervals",
    "linear_differences": "Linear probe, colorization encoder minus each control, 95% intervals",
    "layers": "Linear probe by layer, trained and untrained",
    "labels": "Linear probe by the number of labeled images",
    "grid_train": "Training images: gray as the network sees it, ours, truth",
    "grid_validation": "Validation images, of the same classes but never trained on: gray, ours, truth",
    "grid_excluded": "Excluded classes, never seen in pretraining: gray, ours, truth",
}


def write_report(out: Path, results: Mapping[str, Any], grids: Mapping[str, bytes], findings: Findings) -> None:
    """Writes `report.html` and `figures/` into the folder of a run."""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder, results, findings)
    for name, png in grids.items():
        write_bytes(folder / f"grid_{name}.png", png)
    page = html_page("Does colorizing food photos help to classify them?", sections(results, folder))
    write_text(out / "report.html", page)


def draw(folder: Path, results: Mapping[str, Any], findings: Findings) -> None:
    """Writes the plots as PNG files; `CAPTIONS` says what each shows."""
    history = results["pretraining"]["history"]
    losses = {
        "training": [[row["train_loss"] for row in history]],
        "validation": [[row["val_loss"] for row in history]],
    }
    if history:
        picture = curves(losses, title="Pretraining", x_label="epoch", y_label="loss")
        write_bytes(folder / "pretraining.png", picture)
    for study, domains in findings.reports.items():
        for domain, report in domains.items():
            title = f"{study} probe, {DOMAINS[domain]} classes"
            if study == "conv":
                report.plot(folder / f"conv_{domain}.png", title=title)
                report.plot(folder / f"conv_loss_{domain}.png", title=title, loss=True)
                report.plot_differences(folder / f"conv_differences_{domain}.png", title=title)
            if study == "linear":
                shown = [LATENT, *filter(None, [results["chosen_layer"]])]
                report.plot_differences(folder / f"linear_differences_{domain}.png", shown, title=title)
                report.plot_layers(folder / f"layers_{domain}.png", [*LAYERS, LATENT], title=title)
    for domain, curve in findings.labels.items():
        # One that has seen a million labels would flatten all others; the table has it.
        shown = [name for name in next(iter(curve.reports.values())).names if name != IMAGENET_LABELS]
        curve.plot(folder / f"labels_{domain}.png", shown, title=f"linear probe, {DOMAINS[domain]} classes")


def sections(results: Mapping[str, Any], folder: Path) -> list[Section]:
    """The page in the order in which a stranger would ask."""
    data, config = results["data"], results["config"]
    history = results["pretraining"]["history"]
    skipped = data["skipped"]

    def shown(*names: str) -> list[Figure]:
        files = {name: folder / f"{name}.png" for name in names}
        return [Figure(file.read_bytes(), caption(name)) for name, file in files.items() if file.exists()]

    return [
        Section(
            f"Data: {data['name']}",
            [data["note"]] if data["note"] else [],
            [{"images": role, "count": f"{count:,}"} for role, count in data["counts"].items()],
        ),
        *(Section(answer["question"], [answer["answer"]]) for answer in results["answers"]),
        *(
            Section(
                f"Test accuracy, %: {STUDIES[study]}",
                [about(results, study)],
                summary_rows(results, study),
                shown(*(f"{plot}_{domain}" for plot in PLOTS_OF.get(study, ()) for domain in DOMAINS)),
            )
            for study in results["probe_card"]
        ),
        *(
            [
                Section(
                    f"Test accuracy, %: {STUDIES['labels']}",
                    [f"Labeled images per class; means over {config['seeds']} seeds with 95% intervals."],
                    figures=shown(*(f"labels_{domain}" for domain in DOMAINS)),
                )
            ]
            if results["label_efficiency"]
            else []
        ),
        Section(
            "Have the features collapsed?",
            [
                "Standard deviation over images and positions, effective rank (RankMe) of the averages over positions, "
                "and how much the features at one place differ between images, as a share of their size.",
                *collapse_warnings(_health(results)),
            ],
            health_rows(_health(results)),
        ),
        Section("Colorized images", figures=shown("grid_train", "grid_validation", "grid_excluded")),
        Section(
            "Color quality",
            [
                "PSNR in dB; AuC is the share of pixels within 0..150 of the true ab (gray alone gives about 0.9), "
                "rebalanced with rare colors counting as much as common ones; LPIPS, where shown, of another network "
                "than the loss's; colorfulness after Hasler & Süsstrunk; a runs from green to red, b from blue "
                "to yellow."
            ],
            quality_rows(results),
        ),
        Section(
            "Pretraining",
            [f"Loss per epoch, the sum of {' and '.join(history[0]['terms'])}." if history else "No epochs."],
            figures=shown("pretraining"),
        ),
        Section(
            "Unreadable images",
            [f"{len(skipped)} files were skipped." if skipped else "None; every file was read."],
            skipped[:200],
        ),
        Section("What is unknown about the source", UNKNOWN),
        Section("Configuration", [results["command"]], code=json.dumps({**config, **results["environment"]}, indent=2)),
        Section("Probe cards", ["All that decides the figures."], code=json.dumps(results["probe_card"], indent=1)),
    ]


def caption(name: str) -> str:
    """What a picture shows."""
    plot, _, part = name.rpartition("_")
    return CAPTIONS[name] if name in CAPTIONS else f"{CAPTIONS[plot]}, {DOMAINS[part]} classes"


def about(results: Mapping[str, Any], study: str) -> str:
    """How the figures of a study are to be read."""
    cards = results["probe_card"][study]
    trained = " and ".join(
        f"{card['train']['images']:,} images of {card['classes']} {DOMAINS[domain]} classes (chance "
        f"{100 / card['classes']:.1f}%)"
        for domain, card in cards.items()
    )
    seeds = len(next(iter(cards.values()))["seeds"])
    return f"Means over {seeds} seeds with 95% intervals. Trained on frozen features of {trained}."


def summary_rows(results: Mapping[str, Any], study: str) -> list[dict[str, str]]:
    """Both domains side by side."""
    rows = [row for row in results["summary"] if row["study"] == study]
    return side_by_side(rows, lambda row: DOMAINS[row["domain"]])


def label_rows(results: Mapping[str, Any], domain: str) -> list[dict[str, str]]:
    """A row per representation, a column per number of labels."""
    rows = [row for row in results["label_efficiency"] if row["domain"] == domain]
    return side_by_side(rows, lambda row: str(row["per_class"]))


def side_by_side(
    summary: Iterable[Mapping[str, Any]], column: Callable[[Mapping[str, Any]], str]
) -> list[dict[str, str]]:
    """Rows of a summary by representation, the accuracy of each in the column that is named for it."""
    rows: dict[str, dict[str, str]] = {}
    for row in summary:
        shown = rows.setdefault(row["representation"], {"representation": row["representation"]})
        shown[column(row)] = percent(row["test_accuracy_mean"], row["test_accuracy_ci95"])
    return list(rows.values())


def _health(results: Mapping[str, Any]) -> dict[str, Health]:
    """Of the study that looks at the most layers, in-domain."""
    cards = results["probe_card"].get("linear") or next(iter(results["probe_card"].values()), None)
    return {} if cards is None else cards["in"]["health"]


def quality_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Color quality, with as many digits as mean something."""
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


def markdown_summary(results: Mapping[str, Any], *, figures: Path, link: str) -> str:
    """A page for the documentation: the same answers, tables and plots, with command, commit and machine.

    Args:
        results: Of the run.
        figures: Where its plots lie.
        link: Where the page finds them.
    """
    env, data = results["environment"], results["data"]
    machine = f"{env['device']}, {env['processor']}, {env['cores']} cores, torch {env['torch']}"

    def shown(*names: str) -> list[str]:
        return [f"![{caption(name)}]({link}/{name}.png)" for name in names if (figures / f"{name}.png").exists()]

    parts = [
        f"Data: **{data['name']}**. {data['note']}",
        "```bash\n" + results["command"] + "\n```",
        f"Commit `{env['commit']}`; {machine}; {sum(results['times'].values()) / 60:.1f} minutes.",
        "## Answers",
        *(f"**{answer['question']}**\n\n{as_markdown(answer['answer'])}" for answer in results["answers"]),
    ]
    for study in results["probe_card"]:
        parts += [f"## Test accuracy, %: {STUDIES[study]}", about(results, study), _table(summary_rows(results, study))]
        parts += shown(*(f"{plot}_{domain}" for plot in PLOTS_OF.get(study, ()) for domain in DOMAINS))
    for domain, heading in DOMAINS.items():
        if rows := label_rows(results, domain):
            parts += [f"## Test accuracy, %: {STUDIES['labels']}, {heading}", _table(rows), *shown(f"labels_{domain}")]
    parts += [
        "## Health of the features",
        "\n\n".join(collapse_warnings(_health(results))),
        _table(health_rows(_health(results))),
        "## Color quality",
        _table(quality_rows(results)),
        "## Images used",
        _table([{"role": role, "images": f"{count:,}"} for role, count in data["counts"].items()]),
        "## Pretraining",
        *shown("pretraining"),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def as_markdown(answer: str) -> str:
    """An answer's lines as paragraphs, those that begin with a dash as lists."""
    kinds = itertools.groupby(answer.splitlines(), key=lambda line: line.startswith("- "))
    return "\n\n".join(("\n" if listed else "\n\n").join(lines) for listed, lines in kinds)


def _table(rows: list[dict[str, str]]) -> str:
    return markdown_table(rows, list(rows[0])) if rows else ""
