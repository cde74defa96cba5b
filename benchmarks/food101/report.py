"""The HTML report of a run, its plots, and its summary in Markdown for the documentation.

Everything is made from what `results.json` holds, so that a page or a plot can be made again later.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.food101.presets import study_title
from benchmarks.food101.studies import DOMAINS, LATENT, LAYERS
from ssl_pretext.probes import ACCURACY, ProbeReport, before_name, difference_plot, few_steps_warning, untrained_name
from ssl_pretext.reporting import Figure, Section, Verdict, curves, html_page, lines, markdown_table, to_png
from ssl_pretext.representations import IMAGENET_LABELS, Health, collapse_warnings, health_rows
from ssl_pretext.system.files import write_bytes, write_text

__all__ = ["UNKNOWN", "draw", "markdown_summary", "side_by_side", "write_report"]

UNKNOWN = (
    "The source states neither the image size nor the batch size of pretraining. Both are choices of the preset.",
    "The source gives only the total number of the network's parameters. The architecture is inferred from it: among "
    "the options of diffusers' autoencoder that were searched, one gives 1,287,631.",
    "The final tanh, the ranges of input and output values, and whether there was a learning rate schedule are "
    "unknown, because they change no number of parameters. Here, the output is in [-1, 1] and the rate is constant.",
    "The source states no augmentation, and none is used here. It states no seed, and it reports one run "
    "without intervals.",
    "The source lists twenty excluded classes, of which eighteen are distinct. So 83 classes are in-domain, where the "
    "source says 81.",
    "The source has no untrained encoder and no lightness channel among its baselines. Both controls are added here.",
)
PLOTS_OF = {"conv": ("conv_differences", "conv", "conv_loss"), "linear": ("linear_differences", "layers")}
CAPTIONS = {
    "pretraining": "Pretraining loss on training and validation images",
    "conv": "Test accuracy per epoch of the conv probe; shaded area: range over the seeds",
    "conv_loss": "Test loss per epoch of the conv probe; shaded area: range over the seeds",
    "conv_differences": "Conv probe, colorization encoder minus each control, 95% intervals",
    "linear_differences": "Linear probe, colorization encoder minus each control, 95% intervals",
    "layers": "Linear probe by layer, trained and untrained",
    "labels": "Linear probe by the number of labeled images",
    "grid_train": "Training images: grayscale input, prediction, original",
    "grid_validation": "Held-out images of the pretraining classes: grayscale input, prediction, original",
    "grid_excluded": "Images of the excluded classes, never seen in pretraining: grayscale input, prediction, original",
}


def write_report(out: Path, results: Mapping[str, Any], grids: Mapping[str, bytes]) -> None:
    """Writes `report.html` and `figures/` to the folder of a run.

    Args:
        out: Folder of the run.
        results: What `results.json` holds.
        grids: PNG files of colorized images, by the name of the images.
    """
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder, results)
    for name, png in grids.items():
        write_bytes(folder / f"grid_{name}.png", png)
    page = html_page(
        "Does learning to colorize photos help to classify them?",
        sections(results, folder),
        verdict=verdict(results),
        lead=lead(results),
    )
    write_text(out / "report.html", page)


def verdict(results: Mapping[str, Any]) -> Verdict | None:
    """The answer at the top of the page: the first study, on the classes that the encoder was pretrained on.

    None if the run had no probe.
    """
    study = next(iter(results["probe_card"]), None)
    if study is None:
        return None
    runs = [run for run in results["probes"] if (run["study"], run["domain"]) == (study, "in")]
    return ProbeReport(runs, results["probe_card"][study]["in"]).verdict(LATENT)


def lead(results: Mapping[str, Any]) -> str:
    """What was trained and on what, in a line."""
    config, counts = results["config"], results["data"]["counts"]
    return (
        f"The documented autoencoder learned to predict the colors of {counts['pretraining']:,} photos from their "
        f"lightness, for {config['epochs']} epochs at {config['image_size']} pixels, without any labels "
        f"({results['data']['name']})."
    )


def draw(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes the plots of a run as PNG files, which `CAPTIONS` describes.

    Args:
        folder: Folder for the files; it must exist.
        results: What `results.json` holds.
    """
    history = results["pretraining"]["history"]
    if history:
        losses = {
            "training": [[row["train_loss"] for row in history]],
            "validation": [[row["val_loss"] for row in history]],
        }
        plot = curves(losses, title="Pretraining", x_label="epoch", y_label="loss")
        write_bytes(folder / "pretraining.png", to_png(plot))
    for domain, heading in DOMAINS.items():
        if "conv" in results["probe_card"]:
            title = f"conv probe, {heading} classes"
            write_bytes(folder / f"conv_{domain}.png", _probe_curves(results, domain, title))
            write_bytes(folder / f"conv_loss_{domain}.png", _probe_curves(results, domain, title, loss=True))
            write_bytes(folder / f"conv_differences_{domain}.png", _differences(results, "conv", domain, title))
        if "linear" in results["probe_card"]:
            title = f"linear probe, {heading} classes"
            shown = [LATENT, *filter(None, [results["chosen_layer"]])]
            picture = _differences(results, "linear", domain, title, shown)
            write_bytes(folder / f"linear_differences_{domain}.png", picture)
            if results["chosen_layer"]:
                write_bytes(folder / f"layers_{domain}.png", _layers(results, domain, title))
        if any(row["domain"] == domain for row in results["label_efficiency"]):
            title = f"linear probe, {heading} classes"
            write_bytes(folder / f"labels_{domain}.png", _label_curves(results, domain, title))


def _probe_curves(results: Mapping[str, Any], domain: str, title: str, *, loss: bool = False) -> bytes:
    """Accuracy, or loss, of the conv probe per epoch."""
    key, label, factor = ("test_loss", "test loss", 1) if loss else ("test_accuracy", "test accuracy, %", 100)
    series: dict[str, list[list[float]]] = {}
    for run in results["probes"]:
        if (run["study"], run["domain"]) == ("conv", domain):
            # JSON has no NaN: a value that is not finite is stored as null.
            values = [math.nan if row[key] is None else factor * row[key] for row in run["history"]]
            series.setdefault(run["representation"], []).append(values)
    return to_png(curves(series, title=title, x_label="epoch", y_label=label))


def _differences(
    results: Mapping[str, Any], study: str, domain: str, title: str, names: Iterable[str] | None = None
) -> bytes:
    """Paired differences of a study against the controls; those of all representations by default."""
    rows = [row for row in results["differences"] if (row["study"], row["domain"]) == (study, domain)]
    shown = [row for row in rows if names is None or row["representation"] in names]
    return to_png(difference_plot(shown, title=title))


def _layers(results: Mapping[str, Any], domain: str, title: str) -> bytes:
    """Accuracy of the linear probe by layer, for the trained and the untrained encoder."""
    rows = {
        row["representation"]: row for row in results["summary"] if (row["study"], row["domain"]) == ("linear", domain)
    }
    layers = list(enumerate([*LAYERS, LATENT]))
    controls = results["probe_card"]["linear"][domain]["controls"]
    plot = lines(
        {
            "trained": [(i, *_in_percent(rows[name])) for i, name in layers],
            "untrained": [(i, *_in_percent(rows[untrained_name(name)])) for i, name in layers],
        },
        title=title,
        x_label="layer",
        y_label="test accuracy, %",
        x_names=[name for _, name in layers],
        reference={
            name: _in_percent(rows[name])[0]
            for name in controls
            if not name.endswith((untrained_name(""), before_name("")))
        },
    )
    return to_png(plot)


def _label_curves(results: Mapping[str, Any], domain: str, title: str) -> bytes:
    """Accuracy of the linear probe by the number of labeled images per class."""
    series: dict[str, list[tuple[float, float, float | None]]] = {}
    for row in results["label_efficiency"]:
        # A network trained on a million labels would flatten all other curves. The table shows it.
        if row["domain"] == domain and row["representation"] != IMAGENET_LABELS:
            series.setdefault(row["representation"], []).append((row["per_class"], *_in_percent(row)))
    plot = lines(series, title=title, x_label="labeled images per class", y_label="test accuracy, %", log=True)
    return to_png(plot)


def _in_percent(row: Mapping[str, Any]) -> tuple[float, float | None]:
    """Mean accuracy and half the width of its interval."""
    mean, half = row["test_accuracy_mean"], row["test_accuracy_ci95"]
    return 100 * mean, None if half is None else 100 * half


def sections(results: Mapping[str, Any], folder: Path) -> list[Section]:
    """The sections of the HTML report, from the most to the least important."""
    data, config = results["data"], results["config"]
    history = results["pretraining"]["history"]
    skipped = data["skipped"]

    def figures(*names: str) -> list[Figure]:
        files = {name: folder / f"{name}.png" for name in names}
        return [Figure(file.read_bytes(), caption(name)) for name, file in files.items() if file.exists()]

    return [
        Section("Colorized images", figures=figures("grid_validation")),
        *(Section(answer["question"], [answer["answer"]], collapsed=True) for answer in results["answers"]),
        *(
            Section(
                f"Test accuracy, %: {study_title(study, config)}",
                [describe_study(results, study)],
                summary_rows(results, study),
                figures(*(f"{plot}_{domain}" for plot in PLOTS_OF.get(study, ()) for domain in DOMAINS)),
                collapsed=True,
            )
            for study in results["probe_card"]
        ),
        *(
            [
                Section(
                    f"Test accuracy, %: {study_title('labels', config)}",
                    [f"Means over {config['seeds']} seeds with 95% intervals, by the number of labels per class."],
                    figures=figures(*(f"labels_{domain}" for domain in DOMAINS)),
                    collapsed=True,
                )
            ]
            if results["label_efficiency"]
            else []
        ),
        Section(
            "Have the features collapsed?",
            [
                "The table shows the standard deviation over images and positions, the effective rank (RankMe) of the "
                "features averaged over positions, and how much the features at one position differ between images, "
                "as a fraction of their root mean square.",
                *collapse_warnings(_health(results)),
            ],
            _health_rows(results),
            collapsed=True,
        ),
        Section("More colorized images", figures=figures("grid_train", "grid_excluded"), collapsed=True),
        Section(
            "Color quality",
            [
                "PSNR is in dB. AuC is the normalized area under the curve of the fraction of pixels within 0..150 of "
                "the true ab. Rebalanced AuC weights rare colors as much as common ones. LPIPS, where shown, uses a "
                "different network than the loss. Colorfulness is that of Hasler & Süsstrunk. a runs from green to "
                "red, b from blue to yellow. A pixel is colored if its chroma in Lab is above 5; the hues are shares "
                "of these pixels, by their angle in ab: yellow from 60° (orange) to 105°, green to 180°, blue to 330° "
                "(with cyan and magenta), red to 60°. The gray images have the exact lightness and no color."
            ],
            quality_rows(results),
            collapsed=True,
        ),
        Section(
            "Pretraining",
            [f"The loss per epoch is the sum of {' and '.join(history[0]['terms'])}." if history else "No epochs."],
            figures=figures("pretraining"),
        ),
        Section(
            f"Data: {data['name']}",
            [data["note"]] if data["note"] else [],
            [{"images": role, "count": f"{count:,}"} for role, count in data["counts"].items()],
            collapsed=True,
        ),
        Section(
            "Unreadable images",
            [f"{len(skipped)} files were skipped." if skipped else "All files could be read."],
            skipped[:200],
            collapsed=True,
        ),
        Section("What is unknown about the source", UNKNOWN, collapsed=True),
        Section(
            "Configuration",
            [results["command"]],
            code=json.dumps({**config, **results["environment"]}, indent=2),
            collapsed=True,
        ),
        Section(
            "Probe cards",
            ["The settings that decide the results."],
            code=json.dumps(results["probe_card"], indent=1),
            collapsed=True,
        ),
    ]


def caption(name: str) -> str:
    """The caption of a plot, from the name of its file."""
    plot, _, part = name.rpartition("_")
    return CAPTIONS[name] if name in CAPTIONS else f"{CAPTIONS[plot]}, {DOMAINS[part]} classes"


def describe_study(results: Mapping[str, Any], study: str) -> str:
    """Says how many seeds, images and classes the results of a study come from, and warns of too few steps."""
    cards = results["probe_card"][study]
    trained = " and ".join(
        f"{card['train']['images']:,} images of {card['classes']} {DOMAINS[domain]} classes (chance "
        f"{100 / card['classes']:.1f}%)"
        for domain, card in cards.items()
    )
    seeds = len(next(iter(cards.values()))["seeds"])
    lead = f"Means over {seeds} seeds with 95% intervals. The probes were trained on frozen features of {trained}."
    warnings = {domain: few_steps_warning(card, card["train"]["images"]) for domain, card in cards.items()}
    found = [
        warning.replace("Warning:", f"Warning, {DOMAINS[domain]}:") for domain, warning in warnings.items() if warning
    ]
    return " ".join([lead, *found])


def summary_rows(results: Mapping[str, Any], study: str) -> list[dict[str, str]]:
    """One row per representation, one column per domain."""
    rows = [row for row in results["summary"] if row["study"] == study]
    return side_by_side(rows, lambda row: DOMAINS[row["domain"]])


def label_rows(results: Mapping[str, Any], domain: str) -> list[dict[str, str]]:
    """One row per representation, one column per number of labels."""
    rows = [row for row in results["label_efficiency"] if row["domain"] == domain]
    return side_by_side(rows, lambda row: str(row["per_class"]))


def side_by_side(
    summary: Iterable[Mapping[str, Any]], column: Callable[[Mapping[str, Any]], str]
) -> list[dict[str, str]]:
    """One row per representation, with the accuracy of each row of a summary in the column that `column` names."""
    rows: dict[str, dict[str, str]] = {}
    for row in summary:
        cells = rows.setdefault(row["representation"], {"representation": row["representation"]})
        cells[column(row)] = ACCURACY.text(row["test_accuracy_mean"], row["test_accuracy_ci95"])
    return list(rows.values())


def _health(results: Mapping[str, Any]) -> dict[str, Health]:
    """The in-domain feature health of the study with the most layers.

    Results that were stored before `between_images` was measured get NaN for it.
    """
    cards = results["probe_card"].get("linear") or next(iter(results["probe_card"].values()), None)
    stored = {} if cards is None else cards["in"]["health"]
    health: dict[str, Any] = {name: {"between_images": math.nan} | values for name, values in stored.items()}
    return health


def _health_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of feature health, without the values that were not measured."""
    return [{key: value for key, value in row.items() if value != "nan%"} for row in health_rows(_health(results))]


def quality_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of color quality: rows for the predicted, the gray and the true colors of each set of images.

    Results that were stored before gray images and hues were measured have no such rows and columns.
    """
    rows = []
    for row in results["color_quality"]:
        colors = row.get("colors", "predicted")
        columns = [key for key, value in row.items() if isinstance(value, float) and not key.endswith("_truth")]
        rows.append(
            {"images": row["images"], "colors": colors}
            | {quality_heading(key): quality_cell(row, key) for key in columns}
        )
        if colors == "predicted":
            truth = {quality_heading(key): quality_cell(row, f"{key}_truth") for key in columns}
            rows.append({"images": row["images"], "colors": "true"} | truth)
    return rows


def quality_heading(key: str) -> str:
    """The heading of a column of color quality."""
    if key.startswith(("colored", "hue_")):
        return f"{key.removeprefix('hue_')}, %"
    return key.replace("_", " ")


def quality_cell(row: Mapping[str, Any], key: str) -> str:
    """A value of color quality as text, with three decimals for values between 0 and 1, or "" if there is none."""
    if key not in row:
        return ""
    if key.startswith(("colored", "hue_")):
        return f"{100 * row[key]:.1f}"
    return f"{row[key]:.3f}" if key in ("ssim", "auc_raw", "auc_rebalanced", "lpips") else f"{row[key]:.1f}"


def markdown_summary(results: Mapping[str, Any], *, figures: Path, link: str) -> str:
    """The body of the page for the documentation: answers, tables and plots, with command, commit and machine.

    Args:
        results: What `results.json` holds.
        figures: Folder with the plots.
        link: Path of that folder as the page links to it.
    """
    env, data, config = results["environment"], results["data"], results["config"]
    machine = f"{env['device']}, {env['processor']}, {env['cores']} cores, torch {env['torch']}"

    def images(*names: str) -> list[str]:
        return [f"![{caption(name)}]({link}/{name}.png)" for name in names if (figures / f"{name}.png").exists()]

    parts = [
        f"Data: **{data['name']}**. {data['note']}".strip(),
        "```bash\n" + results["command"] + "\n```",
        f"Commit `{env['commit']}`; {machine}; {sum(results['times'].values()) / 60:.1f} minutes.",
        "## Answers",
        *(f"**{answer['question']}**\n\n{as_markdown(answer['answer'])}" for answer in results["answers"]),
    ]
    for study in results["probe_card"]:
        parts += [
            f"## Test accuracy, %: {study_title(study, config)}",
            describe_study(results, study),
            _table(summary_rows(results, study)),
        ]
        parts += images(*(f"{plot}_{domain}" for plot in PLOTS_OF.get(study, ()) for domain in DOMAINS))
    for domain, heading in DOMAINS.items():
        if rows := label_rows(results, domain):
            title = study_title("labels", config)
            parts += [f"## Test accuracy, %: {title}, {heading}", _table(rows), *images(f"labels_{domain}")]
    parts += [
        "## Feature health",
        "\n\n".join(collapse_warnings(_health(results))),
        _table(_health_rows(results)),
        "## Color quality",
        _table(quality_rows(results)),
        "## Images used",
        _table([{"role": role, "images": f"{count:,}"} for role, count in data["counts"].items()]),
        "## Pretraining",
        *images("pretraining"),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def as_markdown(answer: str) -> str:
    """Converts an answer to Markdown: lines that begin with a dash become lists, all others paragraphs."""
    kinds = itertools.groupby(answer.splitlines(), key=lambda line: line.startswith("- "))
    return "\n\n".join(("\n" if listed else "\n\n").join(lines) for listed, lines in kinds)


def _table(rows: list[dict[str, str]]) -> str:
    return markdown_table(rows) if rows else ""
