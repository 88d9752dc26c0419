"""Sizes of results, and parts of pictures, as options name them. This module does not import PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from restorer.errors import UsageError
from restorer.limits import SCALES, real_number, whole_number

__all__ = ["UNCHANGED", "Enlargement", "Geometry", "Region", "parse_region"]

MAX_SCALE = max(SCALES)


class Region(NamedTuple):
    """A rectangle of pixels.

    Args:
        left: Columns to the left of it.
        top: Rows above it.
        width: Its number of columns.
        height: Its number of rows.
    """

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The column after the last one."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """The row after the last one."""
        return self.top + self.height

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.left, self.right)

    @property
    def tag(self) -> str:
        """The part of a result's name that says where it lies, such as 200x150+40+0."""
        return f"{self.width}x{self.height}+{self.left}+{self.top}"

    @property
    def option(self) -> str:
        """The value of the option `--region`."""
        return ",".join(map(str, self))

    def check_inside(self, width: int, height: int) -> None:
        """Check that the region lies inside a picture.

        Args:
            width: Width of the picture in pixels.
            height: Its height.

        Raises:
            UsageError: Part of the region lies outside.
        """
        if self.right > width or self.bottom > height:
            raise UsageError(
                f"the region {self.tag} ends at column {self.right} and row {self.bottom}, but the picture has "
                f"{width}x{height} pixels",
                "name a region inside the picture: --region LEFT,TOP,WIDTH,HEIGHT",
            )

    def scaled(self, factor: int) -> Region:
        """Return the same region of a picture that is larger by a whole factor."""
        return Region(*(factor * number for number in self))

    def moved(self, right: int, down: int) -> Region:
        """Return the region moved by a number of columns and rows."""
        return Region(self.left + right, self.top + down, self.width, self.height)

    def common(self, other: Region) -> Region | None:
        """Return what the region has in common with another one; None if that is nothing."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Region(left, top, right - left, bottom - top) if left < right and top < bottom else None

    def within(self, other: Region) -> Region:
        """Return the region as it lies in another one that contains it."""
        return Region(self.left - other.left, self.top - other.top, self.width, self.height)


def parse_region(value: Any) -> Region:
    """Return the region that an option or a parameter names.

    Args:
        value: The numbers left, top, width and height: as a text with commas, or as a sequence of whole numbers.

    Raises:
        UsageError: The value is something else, or the region is empty or begins outside of every picture.
    """
    hint = "name four whole numbers: left, top, width and height in pixels, such as 40,0,200,150"
    if isinstance(value, str):
        parts: Sequence[Any] = [part.strip() for part in value.split(",")]
        if len(parts) != 4 or not all(part.lstrip("-").isdecimal() and part.count("-") < 2 for part in parts):
            raise UsageError(f"the region must be X,Y,WIDTH,HEIGHT in pixels, not {value[:60]!r}", hint)
        parts = [int(part) for part in parts]
    else:
        try:
            parts = list(value)
        except TypeError:
            raise UsageError(f"the region must be four numbers, not {type(value).__name__}", hint) from None
        if len(parts) != 4:
            raise UsageError(f"the region must be four numbers, not {len(parts)}", hint)
    region = Region(*(whole_number("each number of the region", part) for part in parts))
    if region.width < 1 or region.height < 1:
        raise UsageError(f"the region is empty: it has {region.width}x{region.height} pixels", hint)
    if region.left < 0 or region.top < 0:
        raise UsageError("the region begins outside the picture: its left and top are counted from 0", hint)
    return region


@dataclass(frozen=True)
class Enlargement:
    """The size of an enlarged picture, by a factor or by its sides.

    Args:
        scale: The factor, above 1 and at most 8; None if a side is given.
        width: Width of the result in pixels; None if it follows from the rest.
        height: Height of the result. With both, the result is the largest one that fits inside them.

    Raises:
        UsageError: A value is out of range, or a factor is given beside a side.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and (self.width is not None or self.height is not None):
            raise UsageError("--scale cannot be combined with --width and --height", "use one of them")
        if self.scale is None and self.width is None and self.height is None:
            raise UsageError("the size of the result is missing", "use --scale, --width or --height")
        if self.scale is not None and not 1 < self.scale <= MAX_SCALE:
            raise UsageError(f"the scale must be above 1 and at most {MAX_SCALE}, not {self.scale:g}")
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and side < 1:
                raise UsageError(f"the {name} of the result must be at least 1 pixel, not {side}")

    @property
    def tag(self) -> str:
        """The part of a result's name that says its size: x4, x1.5, w3000, h2000 or 3000x2000."""
        if self.scale is not None:
            return f"x{self.scale:.10g}"
        if self.width is not None and self.height is not None:
            return f"{self.width}x{self.height}"
        return f"w{self.width}" if self.height is None else f"h{self.height}"

    def options(self) -> tuple[tuple[str, Any], ...]:
        """Return the options that were given, by name; a whole scale is an integer."""
        if self.scale is not None:
            return (("scale", int(self.scale) if float(self.scale).is_integer() else self.scale),)
        sides = (("width", self.width), ("height", self.height))
        return tuple((name, side) for name, side in sides if side is not None)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the result of a picture.

        Args:
            width: Width of the picture in pixels.
            height: Its height.

        Raises:
            UsageError: The result would not be larger than the picture, or more than 8 times as large.
        """
        if self.scale is not None:
            return round(self.scale * width), round(self.scale * height)
        factors = [given / side for given, side in ((self.width, width), (self.height, height)) if given is not None]
        factor = min(factors)
        if not 1 < factor <= MAX_SCALE:
            wanted = " and ".join(f"--{name} {side}" for name, side in self.options())
            less = f"is no enlargement of a picture of {width}x{height} pixels"
            more = f"would enlarge a picture of {width}x{height} pixels more than {MAX_SCALE} times"
            raise UsageError(f"{wanted} {less if factor <= 1 else more}", "name another size")
        return max(1, round(factor * width)), max(1, round(factor * height))

    def factor(self, width: int, height: int) -> int:
        """Return the factor by which the diffusion model enlarges a picture: the smallest of SCALES that suffices.

        A result of another size is shrunk from there.

        Args:
            width: Width of the picture in pixels.
            height: Its height.

        Raises:
            UsageError: As in `size`.
        """
        wide, high = self.size(width, height)
        exact = self.scale is not None and self.scale in SCALES
        return (
            int(self.scale or 0)
            if exact
            else next(scale for scale in SCALES if scale * width >= wide and scale * height >= high)
        )

    def part(self, region: Region, width: int, height: int) -> Region:
        """Return the part of the result that a region of the picture becomes.

        Args:
            region: The region.
            width: Width of the picture in pixels.
            height: Its height.

        Raises:
            UsageError: As in `size`.
        """
        wide, high = self.size(width, height)
        left, right = (_place(edge, wide, width) for edge in (region.left, region.right))
        top, bottom = (_place(edge, high, height) for edge in (region.top, region.bottom))
        return Region(left, top, max(right - left, 1), max(bottom - top, 1))

    @classmethod
    def of(cls, scale: Any = None, width: Any = None, height: Any = None) -> Enlargement:
        """Return the enlargement that parameters of a Python program name; by default the factor is 4.

        Raises:
            UsageError: As in the class, or a value is not a number.
        """
        sides = {
            name: None if side is None else whole_number(name, side)
            for name, side in (("width", width), ("height", height))
        }
        if scale is None and width is None and height is None:
            scale = 4
        return cls(None if scale is None else real_number("scale", scale), **sides)


@dataclass(frozen=True)
class Geometry:
    """How the size of a result follows from that of its picture.

    Args:
        enlargement: The enlargement; None if the picture keeps its size.
        region: The part that is restored; None for all of it.
    """

    enlargement: Enlargement | None = None
    region: Region | None = None

    @property
    def is_plain(self) -> bool:
        """Whether a result has the size of its picture."""
        return self.enlargement is None and self.region is None

    @property
    def tag(self) -> str:
        """The part of a result's name that says which part of the picture it shows, after an underscore; else ''."""
        return "" if self.region is None else f"_{self.region.tag}"

    def result(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the result of a picture.

        Args:
            width: Width of the picture in pixels.
            height: Its height.

        Raises:
            UsageError: The region lies outside the picture, or the picture is not enlarged, or too much.
        """
        region = self._region_of(width, height)
        if self.enlargement is None:
            return region.width, region.height
        part = self.enlargement.part(region, width, height)
        return part.width, part.height

    def computed(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of what the model computes for that, without the surroundings of a region.

        Args:
            width: Width of the picture in pixels.
            height: Its height.

        Raises:
            UsageError: As in `result`.
        """
        region = self._region_of(width, height)
        factor = 1 if self.enlargement is None else self.enlargement.factor(width, height)
        return factor * region.width, factor * region.height

    def ratio(self, width: int, height: int) -> float:
        """Return the factor by which the sides of a result are longer, on average.

        Args:
            width: Width of the picture in pixels.
            height: Its height.

        Raises:
            UsageError: As in `result`.
        """
        wide, high = self.result(width, height)
        return float((wide * high / (width * height)) ** 0.5)

    def _region_of(self, width: int, height: int) -> Region:
        """Return the region of a picture, which lies inside it; all of it if there is none."""
        if self.region is None:
            return Region(0, 0, width, height)
        self.region.check_inside(width, height)
        return self.region


UNCHANGED = Geometry()
"""The geometry of a result that has the size of its picture."""


def _place(edge: int, length: int, of: int) -> int:
    """Return where an edge of a picture lies in its result, whose side has `length` pixels instead of `of`."""
    return min((2 * edge * length + of) // (2 * of), length)
