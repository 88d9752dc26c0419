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

from restorer.cli.terminal.printable import printable

if TYPE_CHECKING:
    from restorer.evaluation.evaluate import Scores

__all__ = [
    "COLUMNS",
    "PERCEPTION_CAPTION",
    "PERCEPTION_COLUMNS",
    "Row",
    "build_table",
    "group_means",
    "to_csv",
    "to_json",
]

COLUMNS = (
    ("psnr", "PSNR", ".2f"),
    ("ssim", "SSIM", ".4f"),
    ("psnr_y", "PSNR Y", ".2f"),
    ("ssim_y", "SSIM Y", ".4f"),
    ("psnr_holes", "holes", ".2f"),
    ("seconds", "s", ".2f"),
    ("evaluations", "evals", ".3g"),
    ("sigma", "noise", ".1f"),
)
"""For each column the field of `Scores`, the heading and the format."""

PERCEPTION_COLUMNS = (
    ("lpips", "LPIPS", ".4f"),
    ("efficientnet", "EffNet", ".4f"),
    ("gmsd", "GMSD", ".4f"),
    ("mdsi", "MDSI", ".4f"),
    ("texture_coarse", "coarse", ".3f"),
    ("texture_medium", "medium", ".3f"),
    ("texture_fine", "fine", ".3f"),
    ("consistency", "consistency", ".2f"),
)
"""The columns of a second table, for what people see."""

PERCEPTION_CAPTION = (
    "LPIPS, EffNet, GMSD and MDSI are distances from the truth: 0 is equal. Coarse, medium and fine are the energy of "
    "the luma in three octaves over that of the truth: 1 is right. Consistency is the difference from the input after "
    "shrinking, on the scale of 0 to 255."
)
"""The line below the second table."""


@dataclass(frozen=True)
class Row:
    """The scores of one picture.

    Args:
        name: The name of the picture.
        condition: The degradation of the picture.
        by: The method that restored the picture.
        scores: The scores of the result.
    """

    name: str
    condition: str
    by: str
    scores: Scores


def group_means(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[int, Scores]]:
    """Return the number of pictures and their mean scores for each condition and method, in order of appearance."""
    from restorer.evaluation.evaluate import mean_scores

    groups: dict[tuple[str, str], list[Scores]] = {}
    for condition in dict.fromkeys(row.condition for row in rows):
        for row in rows:
            if row.condition == condition:
                groups.setdefault((condition, row.by), []).append(row.scores)
    return {key: (len(scores), mean_scores(scores)) for key, scores in groups.items()}


def to_json(scores: Scores) -> dict[str, float | None]:
    """Return the scores as JSON fields, without those that do not apply; infinite scores are None."""
    known = {name: value for name, value in asdict(scores).items() if value is not None}
    return {name: round(value, 5) if math.isfinite(value) else None for name, value in known.items()}


def to_csv(task: str, rows: Sequence[Row]) -> str:
    """Return the scores as CSV: a heading, then one line for each picture, condition and method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name, _, _ in COLUMNS]
    perception = [name for name, _, _ in PERCEPTION_COLUMNS]
    if any(getattr(row.scores, name) is not None for row in rows for name in perception):
        names += perception
    writer.writerow(["picture", "task", "condition", "by", *names])
    for row in rows:
        values = asdict(row.scores)
        writer.writerow(
            [row.name, task, row.condition, row.by, *("" if values[n] is None else values[n] for n in names)]
        )
    return text.getvalue()


def build_table(rows: Sequence[Row], *, pictures: bool, columns: Sequence[tuple[str, str, str]] = COLUMNS) -> Table:
    """Return a table of the mean scores for each condition and method.

    Args:
        rows: The scores of all pictures.
        pictures: Whether the table has a row for each picture as well.
        columns: The columns, as in COLUMNS. Those without any score are left out.
    """
    groups = group_means(rows)
    columns = [c for c in columns if any(getattr(mean, c[0]) is not None for _, mean in groups.values())]
    result = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in ("condition", "by"):
        result.add_column(heading, no_wrap=True)
    result.add_column("pictures", justify="right", no_wrap=True)
    for _, heading, _ in columns:
        result.add_column(heading, justify="right", no_wrap=True)

    def format_scores(scores: Scores) -> list[str]:
        values = [(getattr(scores, name), spec) for name, _, spec in columns]
        return ["" if value is None else format(value, spec) for value, spec in values]

    for (condition, by), (count, mean) in groups.items():
        for row in rows if pictures else ():
            if (row.condition, row.by) == (condition, by):
                result.add_row(condition, by, escape(printable(row.name)), *format_scores(row.scores), style="dim")
        result.add_row(condition, by, f"mean of {count}" if pictures else str(count), *format_scores(mean))
    return result
