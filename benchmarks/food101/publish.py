"""Puts a run's figures and plots, but none of its photographs, into the documentation.

python -m benchmarks.food101.publish runs/food101-cpu docs/results/food101 ["a remark on the run"]
"""

import shutil
import sys
from pathlib import Path

from benchmarks.food101.report import markdown_summary
from ssl_pretext.system.files import read_json, write_text

__all__ = ["publish"]


def publish(run: Path, target: Path, remark: str = "") -> None:
    """Writes `target.md`, and `results.json` with the plots into the folder `target`."""
    results = read_json(run / "results.json")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "results.json", target / "results.json")
    for plot in (run / "figures").glob("*.png"):
        if not plot.name.startswith("grid_"):  # Food-101's photographs may not be passed on
            shutil.copyfile(plot, target / plot.name)
    page = f"# Results: {results['data']['name']}, preset {results['config']['preset']}\n\n"
    page += f"{remark}\n\n" if remark else ""
    write_text(target.with_suffix(".md"), page + markdown_summary(results, figures=target, link=target.name))


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
