"""Scores as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from restorer.evaluation.evaluate import Scores

__all__ = ["Row", "as_csv", "means", "plain", "table"]

# Field of `Scores`, heading, and how it is written.
COLUMNS = (
    ("psnr", "PSNR", ".2f"),
    ("ssim", "SSIM", ".4f"),
    ("psnr_y", "PSNR Y", ".2f"),
    ("ssim_y", "SSIM Y", ".4f"),
    ("psnr_holes", "holes", ".2f"),
    ("seconds", "s", ".2f"),
    ("evaluations", "evals", "g"),
)


@dataclass(frozen=True)
class Row:
    """Scores of one picture. condition: how it was degraded; by: what restored it."""

    name: str
    condition: str
    by: str
    scores: Scores


def means(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[int, Scores]]:
    """By condition and restorer: the number of pictures and their mean, in the order of appearance."""
    from restorer.evaluation.evaluate import mean_scores

    groups: dict[tuple[str, str], list[Scores]] = {}
    for condition in dict.fromkeys(row.condition for row in rows):
        for row in rows:
            if row.condition == condition:
                groups.setdefault((condition, row.by), []).append(row.scores)
    return {key: (len(scores), mean_scores(scores)) for key, scores in groups.items()}


def plain(scores: Scores) -> dict[str, float | None]:
    """For JSON: what does not apply is left out, what is infinite is null."""
    known = {name: value for name, value in asdict(scores).items() if value is not None}
    return {name: round(value, 5) if math.isfinite(value) else None for name, value in known.items()}


def as_csv(task: str, rows: Sequence[Row]) -> str:
    """A heading, then one line for each picture, condition and restorer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name, _, _ in COLUMNS]
    writer.writerow(["picture", "task", "condition", "by", *names])
    for row in rows:
        values = asdict(row.scores)
        writer.writerow(
            [row.name, task, row.condition, row.by, *("" if values[n] is None else values[n] for n in names)]
        )
    return text.getvalue()


def table(rows: Sequence[Row], *, pictures: bool) -> Table:
    """Means per condition and restorer; with `pictures` those of each picture too."""
    groups = means(rows)
    used = [c for c in COLUMNS if any(getattr(mean, c[0]) is not None for _, mean in groups.values())]
    result = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in ("condition", "by"):
        result.add_column(heading, no_wrap=True)
    result.add_column("pictures", justify="right", no_wrap=True)
    for _, heading, _ in used:
        result.add_column(heading, justify="right", no_wrap=True)

    def written(scores: Scores) -> list[str]:
        values = [(getattr(scores, name), form) for name, _, form in used]
        return ["" if value is None else format(value, form) for value, form in values]

    for (condition, by), (count, mean) in groups.items():
        for row in rows if pictures else ():
            if (row.condition, row.by) == (condition, by):
                result.add_row(condition, by, escape(row.name), *written(row.scores), style="dim")
        result.add_row(condition, by, f"mean of {count}" if pictures else str(count), *written(mean))
    return result
