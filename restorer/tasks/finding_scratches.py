"""The step of `auto` that looks for scratches, dust, hairs and creases, and fills them as `inpaint --mask scratches`.

They are looked for first, because what they cover is no evidence for the other steps: a scratch is no noise, and its
edges are sharper than the picture. They are filled when noise and compression are gone. Noise that is known while holes
are filled is continued into them, and the file of a JPEG, within which its compression is undone, has the scratches.

Noise hides the faint ones and the ends of the others. If none are sure in a picture with white noise, they are looked
for in its posterior mean, which takes one evaluation of the prior. Those that are sure are looked for once more before
they are filled.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.masks import grow
from restorer.images.sizes import Region
from restorer.measurement.scratches import Scratches
from restorer.measurement.white_noise import estimate_sigma, is_white
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.finding import Finding, Left, Seen
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.passes import Pass, everything
from restorer.tasks.scratches import MARGIN, scratches_of

__all__ = ["POSSIBLE_SCRATCHES", "are_sure", "find_scratches_step"]

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
    if not are_sure(found) and (mean := _without_white_noise(seen)) is not None:
        beneath = scratches_of(mean, seen.evidence, prior=seen.prior)
        found = beneath if are_sure(beneath) else found
    if not found.places:
        return None
    if not are_sure(found):
        return Finding(note=POSSIBLE_SCRATCHES)
    hole = torch.from_numpy(grow(found.fill, MARGIN))

    def prepare(detail: float | None, left: Left) -> Pass:
        def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
            # Its notes are about masks that a user has made.
            return replace(filling(image, prior, region).measured(), notes=())

        def filling(image: Tensor, prior: Prior, region: Region | None) -> Job:
            fill = hole if image is seen.image else hole | _marked(image, seen.evidence, prior)
            return prepare_inpaint(image, fill, detail=detail, seed=seen.seed, region=region, prior=prior)

        planned = filling(seen.image, seen.prior, None)
        return Pass(begin, planned.evaluations, planned.detail, everything)

    words = found.describe().removeprefix("found ")
    return Finding(words, "inpaint", prepare, hides=hole, waits=True)


def _without_white_noise(seen: Seen) -> Tensor | None:
    """Return the posterior mean of a picture with white noise; None if it has none that is told at once."""
    sigma = estimate_sigma(seen.image, seen.evidence)
    if not is_white(seen.image, sigma, seen.evidence):
        return None
    return prepare_denoise(seen.image, sigma, detail=0.0, prior=seen.prior).run().image


def _marked(image: Tensor, evidence: Tensor | None, prior: Prior) -> Tensor:
    """Return the pixels to fill by another look at a picture, bool (H, W)."""
    return torch.from_numpy(grow(scratches_of(image, evidence, prior=prior).fill, MARGIN))
