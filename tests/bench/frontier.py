"""Measure quality against time: each task at its defaults, and with fewer and more network evaluations.

    python tests/bench/frontier.py DATA [--limit 8] [--tasks ...] [--plot FILE.svg] [--from FILE.json]

DATA is the folder that defaults.py uses, and the pictures are the same: squares of 192 pixels. Time is given as a
number of network evaluations; `restore bench` reports the seconds of an evaluation, and overhead.py measures the rest
of a run. The plot needs matplotlib. `--plot` also writes the figures beside the plot, as FILE.json, and `--from` draws
such a file without measuring again.
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
from defaults import MASK_KINDS, denoise_cases, inpaint_cases, upscale_cases

import restorer
from restorer.tasks import denoise, inpaint, upscale
from restorer.tasks.defaults import Defaults

TASKS = ("denoise 15", "denoise 25", "denoise 50", *MASK_KINDS, "x2", "x4")
DENOISE_STEPS = (1, 2, 4, 6, 8, 12)
INPAINT_STEPS = (5, 8, 12, 16, 20, 30, 60)
UPSCALE_STEPS = (3, 4, 6, 8, 10, 12, 15, 30)

SetDefaults = Callable[[Defaults], None]
Row = dict[str, float]


def find_setting(task: str) -> tuple[Defaults, SetDefaults, tuple[int, ...]]:
    """Return the defaults of a task, a function that replaces them, and the numbers of steps to try."""
    if task.startswith("denoise"):
        return denoise.DENOISE, lambda d: setattr(denoise, "DENOISE", d), DENOISE_STEPS
    if task in MASK_KINDS:
        name = "INPAINT_WIDE" if task == "box" else "INPAINT"
        return getattr(inpaint, name), lambda d: setattr(inpaint, name, d), INPAINT_STEPS
    scale = int(task.removeprefix("x"))
    return upscale.UPSCALE[scale], lambda d: upscale.UPSCALE.update({scale: d}), UPSCALE_STEPS


def make_cases(task: str, data: Path, limit: int, prior: Any) -> list[Callable[[], tuple[float, float, float]]]:
    """Return a function for each picture that returns the PSNR and the high-frequency energies of result and truth."""
    paths = sorted((data / "CBSD68").glob("*.png"))
    pictures = paths[:: len(paths) // limit][:limit]
    if task.startswith("denoise"):
        return denoise_cases(pictures, prior, float(task.split()[1]))
    if task in MASK_KINDS:
        return inpaint_cases(data, task, limit, prior)
    return upscale_cases(pictures, int(task.removeprefix("x")), prior)


class EvaluationCounter:
    """A replacement of a prior's `predict` that counts the evaluations."""

    def __init__(self, prior: Any) -> None:
        self.count, self._predict = 0, prior.predict
        prior.predict = self

    def __call__(self, *args: Any) -> Any:
        """Evaluate the prior and count the evaluation."""
        self.count += 1
        return self._predict(*args)


def measure(task: str, data: Path, limit: int, prior: Any, counter: EvaluationCounter) -> Iterator[Row]:
    """Yield one row of figures for each number of steps."""
    base, set_defaults, step_counts = find_setting(task)
    cases = make_cases(task, data, limit, prior)
    for steps in sorted({*step_counts, base.steps}):
        set_defaults(replace(base, steps=steps, detail=0.0 if steps == 1 else base.detail))
        counter.count = 0
        score, energy, true_energy = np.array([case() for case in cases]).mean(0)
        yield {
            "steps": steps,
            "default": steps == base.steps,
            "psnr": float(score),
            "texture": float(energy / true_energy),
            "evaluations": counter.count / len(cases),
        }
    set_defaults(base)


def draw(figures: dict[str, list[Row]], file: Path) -> None:
    """Draw a plot of PSNR and texture against evaluations for each task; the filled point is the default."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "restorer"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 3, figsize=(8, 6.4), layout="constrained")
    for axis in axes.flat[len(figures) :]:
        axis.axis("off")
    for axis, (task, rows) in zip(axes.flat, figures.items(), strict=False):
        x, y, z = ([row[key] for row in rows] for key in ("evaluations", "psnr", "texture"))
        axis.plot(x, y, "-o", color="#0a7", markersize=4, markerfacecolor="white")
        for a, b, row in zip(x, y, rows, strict=True):
            if row["default"]:
                axis.plot([a], [b], "o", color="#0a7", markersize=6)
        texture_axis = axis.twinx()
        texture_axis.plot(x, z, ":", color="#888")
        texture_axis.set_ylim(0, max(1.05, *z))
        texture_axis.tick_params(colors="#888", labelsize=6)
        axis.set_xscale("log")
        axis.set_xticks(x, [f"{a:g}" if i == 0 or a > 1.3 * x[i - 1] else "" for i, a in enumerate(x)])
        axis.minorticks_off()
        axis.set_title(task)
    figure.supxlabel("network evaluations")
    figure.supylabel("PSNR in dB (line); texture relative to the truth (dotted, right)")
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Measure the tasks, print the figures and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--limit", type=int, default=8, help="number of pictures for each task")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--from", dest="saved_figures", type=Path, help="draw the figures of this file")
    options = parser.parse_args()
    figures: dict[str, list[Row]] = json.loads(options.saved_figures.read_text()) if options.saved_figures else {}
    if not options.saved_figures:
        if options.data is None:
            parser.error("name DATA, or a file with --from")
        prior = restorer.load_prior("photo")
        counter = EvaluationCounter(prior)
        with torch.inference_mode():
            for task in options.tasks:
                print(f"\n### {task}\n\n| steps | evaluations | PSNR | texture |\n|---|---|---|---|")
                figures[task] = []
                for row in measure(task, options.data, options.limit, prior, counter):
                    figures[task].append(row)
                    steps = f"**{row['steps']}**" if row["default"] else str(row["steps"])
                    cells = f"{row['evaluations']:g} | {row['psnr']:.2f} | {row['texture']:.2f}"
                    print(f"| {steps} | {cells} |", flush=True)
    if options.plot:
        options.plot.with_suffix(".json").write_text(json.dumps(figures))
        draw(figures, options.plot)


if __name__ == "__main__":
    main()
