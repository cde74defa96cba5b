"""How often the judge claims a difference that is not there: `python -m benchmarks.calibration`.

Worlds of which the truth is known are drawn again and again, and `evaluate` compares two representations in each. The
table shows how often its intervals exclude the truth, beside the usual interval over the seeds alone.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.calibration.page import within_limits
from benchmarks.calibration.worlds import Pool, Row, photo_features, rows
from benchmarks.food101.experiment import environment
from benchmarks.result_page import store_and_publish
from ssl_pretext.cli.command import run_command
from ssl_pretext.system.cpus import available_cpus
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.locks import exclusive_lock

__all__ = ["summarize"]

log = logging.getLogger("benchmarks.calibration")

CHUNK = 5  # worlds that a process draws at a time


def summarize(row: Row, claims: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts how often intervals exclude the truth, which is no difference unless the row has a true one.

    Args:
        row: The row of the table.
        claims: The differences of all its worlds, with their intervals.
    """
    truth = fmean(claim["mean"] for claim in claims) if row.different else 0.0
    missed = [abs(claim["mean"] - truth) > claim["ci95"] for claim in claims]
    alone = [abs(claim["mean"] - truth) > max(claim["seeds_alone"], 1e-9) for claim in claims]
    return {
        "row": row.name,
        "data": "photographs" if row.real else "simulated",
        "worlds": row.worlds,
        "comparisons": len(claims),
        "true_difference": truth,
        "missed": fmean(missed),
        "missed_by_seeds_alone": fmean(alone),
        "claimed": fmean(claim["significant"] for claim in claims),
        "half": fmean(claim["ci95"] for claim in claims),
    }


def run(folder: Path | None, worlds: int, out: Path, jobs: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """Computes all rows that the folder `out` does not hold yet.

    If there are texts in `only`, the rows whose names contain none of them are those of earlier results in the folder.
    """
    before = {}
    if only:
        earlier = read_json(out / "results.json")
        before = {row["row"]: {"commit": earlier["environment"]["commit"], **row} for row in earlier["calibration"]}
    commit = environment("cpu")["commit"]
    pools = {False: Pool(), True: Pool() if folder is None else photo_features(folder)}
    found = []
    for number, row in enumerate(rows(folder, worlds)):
        if only and not any(text in row.name for text in only):
            found += [before[row.name]] if row.name in before else []
            continue
        file = out / f"row-{number}-{row.worlds}.json"
        if not file.exists():
            with ProcessPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as executor:
                drawn = executor.map(partial(row.claims, pools[row.real]), range(row.worlds), chunksize=CHUNK)
                write_json(file, {"row": row.name, "claims": [claim for claims in drawn for claim in claims]})
        found.append(summarize(row, read_json(file)["claims"]) | {"commit": commit})
        log.info(
            "%s: %.1f%% missed, %.1f%% by the seeds alone%s",
            row.name,
            100 * found[-1]["missed"],
            100 * found[-1]["missed_by_seeds_alone"],
            "" if within_limits(found[-1]) else "; outside of the limits",
        )
    return {"calibration": found}


def main(arguments: list[str] | None = None) -> int:
    """Runs the calibration; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of photographs in class folders, as EuroSAT's")
    parser.add_argument("--worlds", type=int, default=200, help="worlds of a row with a fast probe (default: 200)")
    parser.add_argument(
        "--only",
        metavar="TEXTS",
        help="compute only rows whose names contain one of these texts, separated by semicolons; the others are those "
        "of the results.json in the output folder",
    )
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="processes (default: one for each core)")
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"), metavar="DIR", help="output folder")
    options = parser.parse_args(arguments)

    def work() -> None:
        torch.set_num_threads(1)
        with exclusive_lock(options.out):
            only = options.only.split(";") if options.only else ()
            results = run(options.data, options.worlds, options.out, options.jobs, only)
        command = "python -m benchmarks.calibration" + (" --data=DIR" if options.data else "")
        data = options.data.resolve().name if options.data else ""
        results |= {"command": f"{command} --worlds={options.worlds}", "photographs": data}
        results |= {"title": "How often the judge is wrong", "environment": environment("cpu")}
        store_and_publish(results, options.out)

    return run_command("benchmarks.calibration", work)


if __name__ == "__main__":
    sys.exit(main())
