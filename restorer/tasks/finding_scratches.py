"""The step of `auto` that looks for scratches, dust, hairs and creases, and fills them as `inpaint --mask scratches`.

They are looked for first, because what they cover is no evidence for the other steps: a scratch is no noise, and its
edges are sharper than the picture. They are filled when noise and compression are gone. Noise that is known while holes
are filled is continued into them, and the file of a JPEG, within which its compression is undone, has the scratches.

Noise hides the faint ones and the ends of the others. Those that are sure are looked for once more before they are
filled, when the noise is gone, and that look tells how far they reach. If none are sure in a picture with strong noise,
they are looked for in the mean of the picture and of its most faithful restoration. It has half of the noise. Without
any noise, a restoration is smoother than any photograph, and less is found in it, and more of what is no scratch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.masks import grow
from restorer.images.sizes import Region
from restorer.measurement.components import components_of
from restorer.measurement.scratches import LEVEL, RULE_UNDER_NOISE, Scratches
from restorer.tasks.finding import Finding, Left, Seen
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.passes import Pass, everything
from restorer.tasks.scratches import MARGIN, scratches_of

__all__ = [
    "POSSIBLE_SCRATCHES",
    "are_sure",
    "find_scratches_step",
    "find_scratches_under_noise",
    "reaching",
    "scratches_under_noise",
]

SURE, SURE_ALONE = 0.78, 0.85
"""Mean probability of the marked pixels from which they are filled: where several places are marked, and where it is
one, which a rope or a wire of the scene may be.

They lie above what the finder marks by mistake in undamaged photographs, so that damage that it is right about may be
left, too; a note then says so."""

CERTAIN = 11.0
"""Log odds of a single pixel from which all places are filled. The structures of scenes reach 9."""

LIKELY_OF_SEVERAL, MOST_OF_SEVERAL = 2 / 3, 0.05
"""Mean probability from which several places are filled that are at most this share of the picture. The finder marks
undamaged photographs in one place, if at all, or much of a facade."""

STRONG = LEVEL
"""Standard deviation in levels of noise that hides scratches: that of the noise which the features are made for."""

NOISE_LEFT = 0.5
"""Share of strong noise that is left in the picture in which scratches are looked for again."""

MOST_OF_PLACE = 2 / 3
"""Share of a place that another look marks, too, from which that look tells how far the place reaches."""

POSSIBLE_SCRATCHES = (
    "what may be scratches or dust may belong to the scene, and is left; restore inpaint --mask scratches fills it"
)


def are_sure(found: Scratches) -> bool:
    """Return whether what was found is damage, and not a part of the scene."""
    if found.highest >= CERTAIN or found.sure >= SURE_ALONE:
        return True
    are_few = found.sure >= LIKELY_OF_SEVERAL and found.share <= MOST_OF_SEVERAL
    return found.places > 1 and (are_few or found.sure >= SURE)


def find_scratches_step(seen: Seen) -> Finding | None:
    """Look for scratches, which takes about as long as three evaluations of the embedded prior."""
    if "scratches" in seen.without:
        return None
    found = scratches_of(seen.image, seen.evidence, prior=seen.prior)
    if not found.places:
        return None
    return _filled(seen, found, again=True) if are_sure(found) else Finding(note=POSSIBLE_SCRATCHES)


def find_scratches_under_noise(seen: Seen) -> Finding | None:
    """Look for scratches that strong noise hides, if none were sure before the noise was found."""
    noise = next((finding for finding in seen.found if finding.noise is not None), None)
    if "scratches" in seen.without or noise is None or any(finding.waits for finding in seen.found):
        return None
    assert noise.noise is not None and noise.prepare is not None
    if noise.noise.kind == "none" or noise.noise.sigma < STRONG or noise.outliers is not None:
        return None
    restored = noise.prepare(0.0, Left()).begin(seen.image, seen.prior, None).measured().run().image
    found = scratches_under_noise(seen.image, restored, seen.evidence, seen.prior)
    return _filled(seen, found, again=False) if are_sure(found) else None


def scratches_under_noise(
    image: Tensor, restored: Tensor, evidence: Tensor | None = None, prior: Prior | None = None
) -> Scratches:
    """Find the scratches of a picture with strong noise.

    Args:
        image: The picture, as in `scratches_of`.
        restored: The picture without its noise, shaped like it.
        evidence: As in `scratches_of`.
        prior: As in `scratches_of`.
    """
    return scratches_of(torch.lerp(restored, image, NOISE_LEFT), evidence, rule=RULE_UNDER_NOISE, prior=prior)


def reaching(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the places that either of two looks marks, as far as the second says where it marks most of a place.

    Args:
        first: The pixels that the first look marks, bool (H, W).
        second: Those of the second, in a picture that shows more.
    """
    places = components_of(first)
    share = np.bincount(places.numbers, second[first], places.count) / np.bincount(places.numbers, None, places.count)
    missed = first.copy()
    missed[first] = (share < MOST_OF_PLACE)[places.numbers]
    return second | missed


def _filled(seen: Seen, found: Scratches, *, again: bool) -> Finding:
    """Return what is found if the scratches are sure.

    Args:
        seen: The picture.
        found: The scratches.
        again: Whether they are looked for again in the picture as it is before they are filled.
    """
    hole = torch.from_numpy(grow(found.fill, MARGIN))

    def prepare(detail: float | None, left: Left) -> Pass:
        def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
            # Its notes are about masks that a user has made.
            return replace(filling(image, prior, region).measured(), notes=())

        def filling(image: Tensor, prior: Prior, region: Region | None) -> Job:
            fill = hole
            if again and image is not seen.image:
                second = scratches_of(image, seen.evidence, prior=prior).fill
                # Noise hides how far they reach, and a compression does not.
                marked = found.fill | second if left.was_compressed else reaching(found.fill, second)
                fill = torch.from_numpy(grow(marked, MARGIN))
            return prepare_inpaint(image, fill, detail=detail, seed=seen.seed, region=region, prior=prior)

        planned = filling(seen.image, seen.prior, None)
        return Pass(begin, planned.evaluations, planned.detail, everything)

    words = found.describe().removeprefix("found ")
    return Finding(words, "inpaint", prepare, hides=hole, waits=True)
