"""Puts a comparison into the documentation: `python -m benchmarks.result_page RUN/results.json docs/results/NAME`."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.food101.report import side_by_side
from benchmarks.pretext.page import sections
from ssl_pretext.probes.report import difference_plot, percent
from ssl_pretext.probes.statistics import mean_interval, paired_difference
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.system.files import read_json, write_bytes, write_text

__all__ = ["publish"]

MEASURES = ("psnr", "ssim", "lpips", "auc_raw", "auc_rebalanced", "colorfulness", "mean_a", "mean_b")
DOMAINS = {"in": "classes of the pretraining images", "out": "classes never seen in pretraining"}


def publish(file: Path, target: Path, remark: str = "") -> None:
    """Writes the page `target.md`, and the figures and grids beside it into the folder `target`."""
    results = read_json(file)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target / "results.json")
    grids = sorted(file.parent.glob("grid*.png"))
    for grid in grids:
        shutil.copyfile(grid, target / grid.name)
    env, data = results["environment"], results["data"]
    config = results["config"]
    parts = [
        f"# {results['title']}",
        remark,
        f"Data: **{data['name']}**. {data['note']}",
        f"```bash\n{results['command']}\n```",
        f"Commit `{env['commit']}`; {env['device']}, {env['processor']}, {env['cores']} cores, torch {env['torch']}. "
        f"{config['seeds']} seeds; {config['epochs']} epochs of {data['counts']['pretraining']:,} images at "
        f"{config['image_size']} px, AdamW at {config['learning_rate']:g}, the same images in the same order for every "
        "row. Means over the seeds with 95% intervals.",
        *(_recipe(results, target) if "chosen" in results else []),
        *_quality(results),
        *(f"![free photos in the colors of each loss]({target.name}/{grid.name})" for grid in grids),
        *(sections(results, target, DOMAINS) if "answer" in results else _accuracy(results)),
        *_paper(results),
    ]
    write_text(target.with_suffix(".md"), "\n\n".join(filter(None, parts)) + "\n")


def _recipe(results: Mapping[str, Any], target: Path) -> list[str]:
    """How a recipe was chosen, and how it does on the test images; a plot for each domain goes beside the figures."""
    chosen, rows = results["chosen"], results["validation"]
    accuracy = {(row["candidate"], row["readout"], row["trained"]): f"{100 * row['accuracy']:.1f}" for row in rows}
    readouts = list(dict.fromkeys(row["readout"] for row in rows))
    lines = [
        {"candidate": name + ("" if trained else " (untrained)")}
        | {readout: accuracy[name, readout, trained] for readout in readouts}
        for name in dict.fromkeys(row["candidate"] for row in rows)
        for trained in (True, False)
    ]
    parts = [
        "## Chosen on validation images: accuracy, %",
        f"Linear probes on labeled images of the pretraining classes, a fifth of them held out. Best: **"
        f"{chosen['candidate']}**, read out from {chosen['readout']}.",
        markdown_table(lines, list(lines[0])),
        "## Judged on test images",
    ]
    summary = side_by_side(results["summary"], lambda row: DOMAINS[row["domain"]])
    parts.append(markdown_table(summary, list(summary[0])))
    for domain, name in DOMAINS.items():
        found = [row for row in results["differences"] if row["domain"] == domain]
        write_bytes(target / f"differences_{domain}.png", difference_plot(found, title=name))
        parts += [
            f"### {name.capitalize()}",
            "\n".join(f"- {row['words'][0].upper()}{row['words'][1:]}." for row in found),
            f"![paired differences, {name}]({target.name}/differences_{domain}.png)",
        ]
    return parts


def _quality(results: Mapping[str, Any]) -> list[str]:
    """What the colors are like."""
    measured = _by_row(row for row in results.get("rows", []) if "quality" in row)
    if not measured:
        return []
    rows = []
    for name, runs in measured.items():
        line = {"loss": name}
        for key in MEASURES:
            if key not in runs[0]["quality"]:
                continue
            mean, half = mean_interval([run["quality"][key] for run in runs])
            digits = 1 if key in ("psnr", "colorfulness", "mean_a", "mean_b") else 3
            line[key.replace("_", " ")] = f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half is not None else "")
        rows.append(line)
    truth = next(iter(measured.values()))[0]["quality"]
    shown = {key: f"{truth[f'{key}_truth']:.1f}" for key in ("colorfulness", "mean_a", "mean_b")}
    rows.append({"loss": "the truth"} | {key.replace("_", " "): value for key, value in shown.items()})
    return ["## Colors of held-out images", markdown_table(rows, list(rows[0]))]


def _accuracy(results: Mapping[str, Any]) -> list[str]:
    """What the encoder learned, by layer."""
    if "rows" not in results:
        return []
    rows = _by_row(results["rows"])
    layers = list(results["rows"][0]["accuracy"]["in"])
    parts = []
    for domain, name in DOMAINS.items():
        lines = []
        for row, runs in rows.items():
            values = {layer: [run["accuracy"][domain][layer] for run in runs] for layer in layers}
            lines.append({"row": row} | {layer: percent(*mean_interval(values[layer])) for layer in layers})
        lines += [
            {"row": pixels, layers[0]: percent(*mean_interval(values[domain]))}
            for pixels, values in results["pixels"].items()
        ]
        parts += [
            f"## Linear probe, {name}: {results.get('judged_on', 'test')} accuracy, %",
            markdown_table(lines, ["row", *layers]),
        ]
        parts.append(_against_controls(rows, domain, layers[-1]))
    return parts


def _against_controls(rows: Mapping[str, Sequence[Mapping[str, Any]]], domain: str, layer: str) -> str:
    """Which rows the intervals set apart from their control."""
    verdicts = []
    for row, runs in rows.items():
        if (control := runs[0].get("control")) is None:
            continue
        pairs = ([run["accuracy"][domain][layer] for run in one] for one in (runs, rows[control]))
        difference = percent(*paired_difference(*pairs), sign=True)
        verdicts.append({"row": row, "control": control, f"difference at {layer}": difference})
    return markdown_table(verdicts, list(verdicts[0])) if verdicts else ""


def _paper(results: Mapping[str, Any]) -> list[str]:
    if "paper" not in results:
        return []
    lines = [
        {"row": row, **{f"conv{i}": f"{value:.1f}" for i, value in enumerate(values, start=1)}}
        for row, values in results["paper"].items()
    ]
    heading = (
        "## The paper's table: AlexNet, linear probes on ImageNet, top-1, % (Zhang et al. 2017, version 1, table 2)"
    )
    return [heading, markdown_table(lines, list(lines[0]))]


def _by_row(runs: Any) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = defaultdict(list)
    for run in runs:
        rows[run["row"]].append(run)
    return dict(rows)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
