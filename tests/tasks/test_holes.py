"""Wide and narrow holes: which holes count as wide, and how a picture with both kinds is filled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian import GaussianPrior
from stubs import Smooth, Spy
from torch import Tensor

from restorer.evaluation.metrics import psnr
from restorer.images.sizes import Region
from restorer.tasks.defaults import INPAINT, INPAINT_PATCHED, INPAINT_WIDE, PATCHED_SIDE, WIDE_SIDE
from restorer.tasks.inpaint import prepare_inpaint, wide_part
from restorer.tasks.patched import LEAST_PIXELS, without_small
from restorer.tasks.uncertain import Asked


def picture(side: int = 120) -> Tensor:
    """Return a random picture without noise, (3, side, side)."""
    pixels = torch.rand(1, 3, side + 8, side + 8, generator=torch.Generator().manual_seed(0))
    return 0.1 + 0.8 * torch.nn.functional.avg_pool2d(pixels, 9, 1)[0]


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
    for side in (7, PATCHED_SIDE):
        assert torch.equal(wide_part(holes((10, 10, side, side)), side), holes((10, 10, side, side)))
        assert not wide_part(holes((10, 10, side - 1, 100)), side).any()


def test_small_parts_are_left_out() -> None:
    side = int(LEAST_PIXELS**0.5)
    large, small = (10, 10, side, side), (60, 60, side, side - 1)
    assert torch.equal(without_small(holes(large, small)), holes(large))
    assert not without_small(holes(small)).any() and not without_small(holes()).any()


def test_wide_and_narrow_holes_are_filled_in_turn() -> None:
    image, fill, spy = picture(), holes(BOX, SCRATCH), Spy(Smooth())
    job = prepare_inpaint(image, fill, steps=4, candidates=2, prior=spy)
    assert job.evaluations == 8
    steps: list[tuple[int, int]] = []
    result = job.run(on_step=lambda step: steps.append((step.index, step.total)))
    assert steps == [(i, 8) for i in range(1, 9)] and len(spy.calls) == 8
    assert [len(call.x) for call in spy.calls] == 4 * [1] + 4 * [job.candidates]
    assert spy.calls[0].sigma == pytest.approx(INPAINT.start)
    assert spy.calls[4].sigma == pytest.approx(INPAINT_PATCHED.start)
    assert torch.equal(result.image[:, ~fill], image[:, ~fill])
    assert "the mask covers" in job.notes[0] and not any("the mask" in note for note in result.notes)
    narrow = prepare_inpaint(image, holes(SCRATCH), steps=4, prior=spy)
    assert narrow.second_pass is None and narrow.evaluations == 4
    # The wide hole is filled last, when the narrow one is known.
    alone = prepare_inpaint(result.image, holes(BOX), steps=4, candidates=2, prior=Smooth()).run().image
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


def tiled_picture(side: int = 120, period: int = 8) -> Tensor:
    """Return a random tile that is repeated, (3, side, side)."""
    tile = 0.3 + 0.4 * torch.rand(3, period, period, generator=torch.Generator().manual_seed(0))
    return tile.repeat(1, side // period, side // period)


class Faithful(GaussianPrior):
    """A prior that takes everything for detail."""

    def __init__(self) -> None:
        super().__init__(0.0, 1e6)


def test_a_texture_is_continued() -> None:
    image, fill = tiled_picture(), holes(BOX)
    damaged = torch.where(fill, 0.5, image)
    filled = prepare_inpaint(damaged, fill, detail=0.0, candidates=1, prior=Faithful()).run().image
    assert torch.equal(filled[:, ~fill], image[:, ~fill])
    smooth = prepare_inpaint(damaged, fill, detail=0.0, method="ddim", prior=Faithful()).run()
    assert psnr(filled[:, fill], image[:, fill]) > psnr(smooth.image[:, fill], image[:, fill]) + 10


@pytest.mark.parametrize("candidates", [1, 3])
def test_candidates_share_a_batch(candidates: int) -> None:
    image, fill, spy = picture(), holes(BOX), Spy(Smooth())
    job = prepare_inpaint(image, fill, steps=2, candidates=candidates, prior=spy)
    assert job.evaluations == 2 and job.candidates == candidates
    result = job.run()
    assert [len(call.x) for call in spy.calls] == [candidates] * 2
    assert result.image.shape == image.shape and torch.equal(result.image[:, ~fill], image[:, ~fill])
    measured = job.measured()
    start = measured.start
    assert len(start) == measured.candidates == candidates
    if candidates > 1:
        assert not torch.equal(start[0], start[1])


def test_each_hole_takes_the_candidate_that_fits_it() -> None:
    """The first candidate is right on the left, the second on the right, and the choice has both."""
    image = tiled_picture(200)
    fill = holes((90, 30, 20, 20), (90, 150, 20, 20), side=200)
    left, right = fill.clone(), fill.clone()
    left[:, 100:], right[:, :100] = False, False
    job = prepare_inpaint(image, fill, candidates=2, prior=Smooth()).measured()
    wrong = 1 - image
    states = torch.stack([torch.where(right, wrong, image), torch.where(left, wrong, image)]) * 2 - 1
    chosen = job.finish(states, states[:1])
    torch.testing.assert_close(chosen, image)
    # A preview shows one candidate.
    torch.testing.assert_close(job.finish(states[:1], states[:1])[:, left], image[:, left])


def test_one_seed_gives_one_filling() -> None:
    image, fill = picture(), holes(BOX)
    first, again, other = (
        prepare_inpaint(image, fill, steps=2, candidates=2, seed=seed, prior=Smooth()).run().image for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_lies_under_the_mask_does_not_matter() -> None:
    image, fill = picture(), holes(BOX)
    other = torch.where(fill, torch.nan, image)
    results = [prepare_inpaint(x, fill, steps=2, candidates=1, prior=Smooth()).run().image for x in (image, other)]
    assert torch.equal(*results)


def test_the_noise_of_the_surroundings_continues() -> None:
    noise = 10 / 255 * torch.randn(3, 160, 160, generator=torch.Generator().manual_seed(0))
    image, fill, spy = 0.5 + noise, holes((60, 60, 40, 40), side=160), Spy(GaussianPrior(0.0, 1e-4))
    filled = prepare_inpaint(image, fill, steps=3, candidates=2, prior=spy).run().image
    assert [len(call.x) for call in spy.calls] == [1, 2, 2, 2]  # the first evaluation takes the noise off
    assert 255 * float(filled[:, fill].std()) == pytest.approx(10, rel=0.2)
    assert torch.equal(filled[:, ~fill], image[:, ~fill])


def test_a_gray_picture_stays_gray() -> None:
    image, fill = picture()[:1], holes(BOX)
    assert prepare_inpaint(image, fill, steps=2, candidates=1, prior=Smooth()).run().image.shape == image.shape
    filled = prepare_inpaint(image.expand(3, -1, -1), fill, steps=2, candidates=1, prior=Smooth()).run().image
    assert torch.equal(filled[0], filled[1]) and torch.equal(filled[0], filled[2])


def test_without_patches_a_wide_hole_starts_from_a_smooth_filling() -> None:
    image, spy = picture(), Spy(Smooth())
    fill = ~holes((50, 50, 10, 10))
    job = prepare_inpaint(image, fill, prior=spy).measured()
    assert job.candidates == 1
    job.run()
    assert len(spy.calls) == INPAINT_WIDE.steps and spy.calls[0].sigma == pytest.approx(INPAINT_WIDE.start)


def test_published_methods_and_noisy_pictures_do_not_start_from_patches() -> None:
    image, fill = picture(), holes(BOX)
    for options in ({"method": "ddpm"}, {"sigma": 10.0}):
        assert prepare_inpaint(image, fill, prior=Smooth(), **options).candidates == 1  # type: ignore[arg-type]


def test_samples_differ_and_are_single_fillings() -> None:
    image, fill, spy = picture(), holes(BOX), Spy(Smooth())
    job = prepare_inpaint(image, fill, steps=2, candidates=2, prior=spy).measured()
    restored = replace(job, asked=Asked(samples=3)).run()
    assert len(restored.samples) == 2
    assert [len(call.x) for call in spy.calls] == [2, 2, 1, 1, 1, 1]
    assert not torch.equal(restored.samples[0], restored.samples[1])
    assert torch.equal(restored.samples[0][:, ~fill], image[:, ~fill])


def test_a_region_is_filled_from_the_patches_of_the_whole_picture() -> None:
    image = picture(300)
    fill = holes((140, 140, 30, 30), side=300)
    region = Region(120, 130, 70, 60)
    part, whole = (
        prepare_inpaint(image, fill, steps=2, detail=0.0, candidates=1, region=r, prior=Faithful()).run().image
        for r in (region, None)
    )
    torch.testing.assert_close(part, whole[:, region.rows, region.columns], atol=1e-4, rtol=0)


def test_a_small_hole_in_a_large_picture_takes_the_memory_of_its_surroundings() -> None:
    image, spy = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0)), Spy(Smooth())
    image = image.repeat_interleave(100, 1).repeat_interleave(100, 2)
    fill = torch.zeros(700, 900, dtype=torch.bool)
    fill[300:364, 400:464] = True
    prepare_inpaint(image, fill, candidates=1, prior=spy).run()
    assert len(spy.calls) < 15 and {tuple(call.x.shape[-2:]) for call in spy.calls} == {(256, 256)}
