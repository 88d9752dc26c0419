"""Wide and narrow holes: which holes count as wide, and how a picture with both kinds is filled."""

from __future__ import annotations

import pytest
import torch
from stubs import Smooth, Spy
from torch import Tensor

from restorer.tasks.defaults import INPAINT, INPAINT_WIDE, WIDE_SIDE
from restorer.tasks.inpaint import prepare_inpaint, wide_part


def picture(side: int = 120) -> Tensor:
    """Return random pixels, (3, side, side)."""
    return 0.3 + 0.4 * torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))


def holes(*rectangles: tuple[int, int, int, int], side: int = 120) -> Tensor:
    """Return a mask that is True inside rectangles (top, left, height, width)."""
    fill = torch.zeros(side, side, dtype=torch.bool)
    for top, left, height, width in rectangles:
        fill[top : top + height, left : left + width] = True
    return fill


BOX, SCRATCH = (10, 10, 40, 30), (90, 0, 3, 120)


def test_the_wide_part_of_a_hole() -> None:
    assert not wide_part(holes(SCRATCH)).any()
    assert torch.equal(wide_part(holes(BOX, SCRATCH)), holes(BOX))
    assert not wide_part(holes((10, 10, WIDE_SIDE - 1, 100))).any()
    assert torch.equal(wide_part(holes((10, 10, WIDE_SIDE, WIDE_SIDE))), holes((10, 10, WIDE_SIDE, WIDE_SIDE)))
    # A scratch through the box is wide up to half a square beyond the box.
    crossed = wide_part(holes(BOX, (20, 0, 3, 120)))
    assert torch.equal(crossed, holes(BOX, (20, 0, 3, 40 + WIDE_SIDE // 2)))
    place = torch.arange(120.0)
    disc = (place[:, None] - 60) ** 2 + (place[None] - 60) ** 2 < 20**2
    assert torch.equal(wide_part(disc), disc)


def test_wide_and_narrow_holes_are_filled_in_turn() -> None:
    image, fill, spy = picture(), holes(BOX, SCRATCH), Spy(Smooth())
    job = prepare_inpaint(image, fill, steps=4, prior=spy)
    assert job.evaluations == 8
    steps: list[tuple[int, int]] = []
    result = job.run(on_step=lambda step: steps.append((step.index, step.total)))
    assert steps == [(i, 8) for i in range(1, 9)] and len(spy.calls) == 8
    assert spy.calls[0].sigma == pytest.approx(INPAINT.start) and spy.calls[4].sigma == pytest.approx(
        INPAINT_WIDE.start
    )
    assert torch.equal(result.image[:, ~fill], image[:, ~fill])
    assert "the mask covers" in job.notes[0] and not any("the mask" in note for note in result.notes)
    narrow = prepare_inpaint(image, holes(SCRATCH), steps=4, prior=spy)
    assert narrow.second_pass is None and narrow.evaluations == 4
    # The wide hole is filled last, when the narrow one is known.
    alone = prepare_inpaint(result.image, holes(BOX), steps=4, prior=Smooth()).run().image
    assert torch.equal(alone, result.image)


def test_a_rough_rim_is_no_narrow_hole() -> None:
    fill = holes(BOX)
    fill[10:14, 41] = True
    fill[3, 3] = True
    assert prepare_inpaint(picture(), fill, prior=Smooth()).second_pass is None


def test_in_turn_only_with_our_own_settings_and_clean_pixels() -> None:
    image, fill = picture(), holes(BOX, SCRATCH)
    assert prepare_inpaint(image, fill, method="ddnm", prior=Smooth()).second_pass is None
    assert prepare_inpaint(image, fill, sigma=10.0, prior=Smooth()).second_pass is None
