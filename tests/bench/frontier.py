"""Quality against time: each task at its defaults, with fewer and with more network evaluations.

    python tests/bench/frontier.py DATA [--limit 8] [--tasks ...] [--plot FILE.svg] [--from FILE.json]

DATA as for defaults.py, whose pictures these are: squares of 192 pixels. Time is given in evaluations of the network,
of which `restore bench` tells the seconds; overhead.py tells what the rest of a run adds. The plot needs matplotlib.
`--from` draws figures that were measured before: `--plot` leaves them beside the plot, as FILE.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from defaults import KINDS, denoise_cases, enlarge_cases, fill_cases

import restorer
from restorer.tasks import denoise, inpaint, upscale
from restorer.tasks.defaults import Defaults

TASKS = ("denoise 15", "denoise 25", "denoise 50", *KINDS, "x2", "x4")
STEPS = {"denoise": (1, 2, 4, 6, 8, 12), "hole": (5, 8, 12, 16, 20, 30, 60), "x": (3, 4, 6, 8, 10, 12, 15, 30)}

Use = Callable[[Defaults], None]
Row = dict[str, float]


def setting(task: str) -> tuple[Defaults, Use, tuple[int, ...]]:
    """The defaults of a task, how to replace them, and the numbers of steps to try."""
    if task.startswith("denoise"):
        return denoise.DENOISE, lambda d: setattr(denoise, "DENOISE", d), STEPS["denoise"]
    if task in KINDS:
        name = "INPAINT_WIDE" if task == "box" else "INPAINT"
        return getattr(inpaint, name), lambda d: setattr(inpaint, name, d), STEPS["hole"]
    scale = int(task.removeprefix("x"))
    return upscale.UPSCALE[scale], lambda d: upscale.UPSCALE.update({scale: d}), STEPS["x"]


def cases_of(task: str, data: Path, limit: int, prior: Any) -> list[Callable[[], tuple[float, float, float]]]:
    """One for each picture, giving PSNR, texture and that of the truth."""
    every = sorted((data / "CBSD68").glob("*.png"))
    pictures = every[:: len(every) // limit][:limit]
    if task.startswith("denoise"):
        return denoise_cases(pictures, prior, float(task.split()[1]))
    if task in KINDS:
        return fill_cases(data, task, limit, prior)
    return enlarge_cases(pictures, int(task.removeprefix("x")), prior)


class Counted:
    """Counts a prior's evaluations."""

    def __init__(self, prior: Any) -> None:
        self.count, self._predict = 0, prior.predict
        prior.predict = self

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        return self._predict(*arguments)


def measure(task: str, data: Path, limit: int, prior: Any, counted: Counted) -> Iterator[Row]:
    """One row a number of steps."""
    base, use, numbers = setting(task)
    cases = cases_of(task, data, limit, prior)
    for steps in sorted({*numbers, base.steps}):
        use(replace(base, steps=steps, detail=0.0 if steps == 1 else base.detail))
        counted.count = 0
        score, energy, true = np.array([case() for case in cases]).mean(0)
        yield {
            "steps": steps,
            "default": steps == base.steps,
            "psnr": float(score),
            "texture": float(energy / true),
            "evaluations": counted.count / len(cases),
        }
    use(base)


def draw(found: dict[str, list[Row]], file: Path) -> None:
    """Small pictures of PSNR against evaluations; the default is the filled point."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "restorer"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 3, figsize=(8, 6.4), layout="constrained")
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, (task, rows) in zip(axes.flat, found.items(), strict=False):
        x, y, z = ([row[key] for row in rows] for key in ("evaluations", "psnr", "texture"))
        axis.plot(x, y, "-o", color="#0a7", markersize=4, markerfacecolor="white")
        for a, b, row in zip(x, y, rows, strict=True):
            if row["default"]:
                axis.plot([a], [b], "o", color="#0a7", markersize=6)
        other = axis.twinx()
        other.plot(x, z, ":", color="#888")
        other.set_ylim(0, max(1.05, *z))
        other.tick_params(colors="#888", labelsize=6)
        axis.set_xscale("log")
        axis.set_xticks(x, [f"{a:g}" if i == 0 or a > 1.3 * x[i - 1] else "" for i, a in enumerate(x)])
        axis.minorticks_off()
        axis.set_title(task)
    figure.supxlabel("network evaluations")
    figure.supylabel("PSNR in dB (line); texture relative to the truth (dotted, right)")
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--limit", type=int, default=8, help="pictures a task")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--from", dest="known", type=Path)
    options = parser.parse_args()
    found: dict[str, list[Row]] = json.loads(options.known.read_text()) if options.known else {}
    if not options.known:
        if options.data is None:
            parser.error("DATA or --from")
        prior = restorer.load_prior("photo")
        counted = Counted(prior)
        with torch.inference_mode():
            for task in options.tasks:
                print(f"\n### {task}\n\n| steps | evaluations | PSNR | texture |\n|---|---|---|---|")
                found[task] = []
                for row in measure(task, options.data, options.limit, prior, counted):
                    found[task].append(row)
                    steps = f"**{row['steps']}**" if row["default"] else str(row["steps"])
                    cells = f"{row['evaluations']:g} | {row['psnr']:.2f} | {row['texture']:.2f}"
                    print(f"| {steps} | {cells} |", flush=True)
    if options.plot:
        options.plot.with_suffix(".json").write_text(json.dumps(found))
        draw(found, options.plot)


if __name__ == "__main__":
    main()
