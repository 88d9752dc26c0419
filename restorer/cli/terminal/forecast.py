"""What a run is going to take, said as soon as one evaluation of the network is timed, and what would take less.

The evaluation that is timed is one of the run itself. The first one also pays for what is done once (code that is
loaded, kernels that are chosen), so where it was short those after it are timed in its place (`console.Timing`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from restorer.cli.terminal.reporter import Reporter, duration
from restorer.folders.options import Options
from restorer.tasks.defaults import DENOISE, INPAINT, LATENT_STEPS, UPSCALE

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.tasks.job import Job

__all__ = ["LONG", "USUAL_STEPS", "WORTH_SAYING", "Forecast", "Run", "run_of", "ways"]

USUAL_STEPS = {"denoise": DENOISE.steps, "inpaint": INPAINT.steps, "upscale": UPSCALE[4].steps}
WORTH_SAYING = 10.0  # seconds from which a run is announced with its time
LONG = 60.0  # seconds from which a run on a CPU names what is cheaper
SAVES = 0.8  # the share of the time that a cheaper way takes at most


@dataclass(frozen=True)
class Run:
    """What decides how long a run takes.

    Args:
        steps: network evaluations of the whole picture.
        usual: those it takes where nothing is said of them.
        one_will_do: whether `--detail 0` takes a single one.
        tile_auto: the share of the present time that `--tile auto` takes.
        part: an option that does a part of the work, and the share of the time that it takes.
        embedded: whether the model is the embedded one.
        on_cpu: where it runs.
        gpu: whether the machine has one.
        latent: whether latents are to be decoded at the end, which is not among the evaluations.
    """

    steps: int
    usual: int
    one_will_do: bool = False
    tile_auto: float = 1.0
    part: tuple[str, float] = ("", 1.0)
    embedded: bool = True
    on_cpu: bool = True
    gpu: bool = False
    latent: bool = False


def run_of(options: Options, job: Job, steps: int) -> Run:
    """The run of one picture by a restoring verb."""
    import torch

    from restorer.tasks.job import tiled

    height, width = job.start.shape[-2:]

    def area(tiles: Tiled) -> int:
        """What the network sees in one evaluation of the picture, overlaps counted as often as they are seen."""
        return tiles.count(height, width) * min(tiles.tile, height) * min(tiles.tile, width)

    return Run(
        steps,
        LATENT_STEPS if job.latent else USUAL_STEPS[options.command],
        one_will_do=options.command == "denoise" and steps > 1,
        tile_auto=1.0 if job.latent else area(tiled(job.prior.prior, height, width)) / area(job.prior),
        embedded=options.model == "photo",
        on_cpu=job.prior.device.type == "cpu",
        gpu=torch.cuda.is_available(),
        latent=job.latent is not None,
    )


def ways(run: Run, seconds: float) -> list[str]:
    """What takes less, with its time where that follows from the `seconds` that the run takes as it is."""
    found: list[tuple[str, float | None]] = []
    if run.one_will_do:
        found.append(("--detail 0", seconds / run.steps))
    if run.steps > run.usual:
        found.append((f"--steps {run.usual}", run.usual / run.steps * seconds))
    elif run.steps == run.usual and not run.one_will_do:
        found.append((f"--steps {run.usual // 2}", run.usual // 2 / run.steps * seconds))
    found += [("--tile auto", run.tile_auto * seconds), (run.part[0], run.part[1] * seconds)]
    if not run.embedded:
        found.append(("--model photo", None))
    found.append(("--device cuda" if run.gpu else "a machine with a GPU", None))
    return [
        how if takes is None else f"{how} (about {duration(takes)})"
        for how, takes in found
        if takes is None or takes <= SAVES * seconds
    ]


class Forecast:
    """Says of each picture what it takes, and once what would take less.

    Args:
        reporter: to whom.
        pictures: how many there are.
    """

    def __init__(self, reporter: Reporter, pictures: int = 1) -> None:
        self._reporter, self._left = reporter, pictures
        self._counted = self._advised = False

    def pass_over(self) -> None:
        """One of the pictures cannot be done."""
        self._left -= 1

    def of(self, label: str, run: Run, pictures: int = 1) -> Callable[[float], None]:
        """For the next picture, or so many in one batch: what `Timing` calls with the seconds that they take."""
        left, self._left = self._left / pictures, self._left - pictures

        def tell(seconds: float) -> None:
            total = seconds * left if not self._counted else seconds
            if total < WORTH_SAYING:
                return
            takes = "take" if pictures > 1 else "sampling takes" if run.latent else "takes"
            all_of_them = f"; {left * pictures:.0f} like it take {duration(total)}" if total > seconds else ""
            self._counted = True
            self._reporter.say(f"{label}: {takes} about {duration(seconds)}{all_of_them}")
            if run.on_cpu and total > LONG and not self._advised:
                self._advised = True
                *more, last = ways(run, total)
                self._reporter.say(f"less time: {', '.join(more)}{' or ' if more else ''}{last}")

        return tell
