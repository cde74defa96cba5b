"""The model card of a run: it shows the answer of the newest `ssl-pretext probe` in the folder of the run."""

from pathlib import Path

from ssl_pretext.probes import ProbeReport
from ssl_pretext.system.files import read_json, write_text
from ssl_pretext.tasks.checkpoint import local_folder
from ssl_pretext.tasks.model_card import CARD_FILE, with_scores

__all__ = ["newest_report", "report_file", "update_card"]


def report_file(out: Path, probe: str) -> Path:
    """Returns the file in the output folder of a command that holds the report of a probe."""
    return out / f"{probe.replace('/', '-')}.json"


def newest_report(run: Path) -> ProbeReport | None:
    """Returns the first report of the newest `ssl-pretext probe RUN` whose results are in the folder of the run.

    Args:
        run: Folder of the run.
    """
    for file in sorted(run.glob("*/card.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        content = read_json(file)
        if len(content["options"].get("runs", ())) == 1:  # `finetune` has cards of its own, and so have several runs
            probe = next(iter(content["probes"]))
            return ProbeReport.from_json(report_file(file.parent, probe))
    return None


def update_card(run: Path) -> Path | None:
    """Shows the newest report in the model card of a run, whose other sections stay as they are.

    Args:
        run: Folder of the run, or of a saved task.

    Returns:
        The file of the card; None if there is no report, or no card with the section `Evaluation`.
    """
    report, file = newest_report(run), local_folder(run, None) / CARD_FILE
    if report is None or not file.is_file():
        return None
    text = with_scores(file.read_text(encoding="utf-8"), report)
    if text is None:
        return None
    write_text(file, text)
    return file
