"""The components of a mask, compared with those of scikit-image."""

from __future__ import annotations

import numpy as np
import pytest

from restorer.measurement.components import components_of

label = pytest.importorskip("skimage.measure").label


def snake(side: int) -> np.ndarray:
    """Return a mask of one line that goes through all of the picture, which takes long to follow."""
    mask = np.zeros((side, side), dtype=bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    return mask


def check(mask: np.ndarray) -> None:
    """Compare the components of a mask with those of scikit-image, whose numbers may be others."""
    found, expected = components_of(mask), label(mask, connectivity=2)
    assert found.count == expected.max(initial=0)
    assert found.numbers.shape == (mask.sum(),)
    pairs = set(zip(expected[mask].tolist(), found.numbers.tolist(), strict=True))
    assert len(pairs) == found.count
    assert {number for _, number in pairs} == set(range(found.count))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.41, 0.5, 0.8])
@pytest.mark.parametrize("size", [(40, 57), (1, 30), (30, 1), (1, 1), (2, 2)])
def test_random_masks(size: tuple[int, int], share: float) -> None:
    for seed in range(5):
        check(np.random.default_rng(seed).random(size) < share)


def test_masks_of_one_value() -> None:
    for size in ((5, 7), (1, 1), (0, 4)):
        assert components_of(np.zeros(size, dtype=bool)).count == 0
    assert components_of(np.ones((5, 7), dtype=bool)).count == 1


def test_corners_touch_and_rows_do_not_wrap() -> None:
    check(np.eye(20, dtype=bool))
    check(np.eye(20, dtype=bool)[::-1])
    ends = np.zeros((3, 8), dtype=bool)
    ends[0, -1] = ends[1, 0] = True  # neighbours in memory, not in the picture
    assert components_of(ends).count == 2


def test_long_lines_are_one_component() -> None:
    for side in (9, 41, 201):
        check(snake(side))
        check(snake(side).T)
        assert components_of(snake(side).T).count == 1
