"""The step of `auto` that looks for scratches, dust, hairs and creases, and fills them as `inpaint --mask scratches`.

They are looked for first, because what they cover is no evidence for the other steps: a scratch is no noise, and its
edges are sharper than the picture. They are filled when noise and compression are gone. Noise that is known while holes
are filled is continued into them, and the file of a JPEG, within which its compression is undone, has the scratches.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.masks import grow
from restorer.images.sizes import Region
from restorer.tasks.finding import Finding, Left, Seen
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.passes import Pass, everything
from restorer.tasks.scratches import MARGIN, scratches_of

__all__ = ["POSSIBLE_SCRATCHES", "find_scratches_step"]

SURE, SURE_ALONE = 0.78, 0.85
"""Mean probability of the marked pixels from which they are filled: where several places are marked, and where it is
one, which a rope or a wire of the scene may be.

They lie above what the finder marks by mistake in undamaged photographs, so that damage that it is right about may be
left, too; a note then says so."""

POSSIBLE_SCRATCHES = (
    "what may be scratches or dust may belong to the scene, and is left; restore inpaint --mask scratches fills it"
)


def find_scratches_step(seen: Seen) -> Finding | None:
    """Look for scratches, which the encoder of the embedded prior takes one evaluation to describe."""
    if "scratches" in seen.without:
        return None
    found = scratches_of(seen.image, seen.evidence, prior=seen.prior)
    if not found.places:
        return None
    if found.sure < (SURE if found.places > 1 else SURE_ALONE):
        return Finding(note=POSSIBLE_SCRATCHES)
    hole = torch.from_numpy(grow(found.fill, MARGIN))

    def prepare(detail: float | None, left: Left) -> Pass:
        def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
            # Its notes are about masks that a user has made.
            return replace(filling(image, prior, region).measured(), notes=())

        def filling(image: Tensor, prior: Prior, region: Region | None) -> Job:
            return prepare_inpaint(image, hole, detail=detail, seed=seen.seed, region=region, prior=prior)

        planned = filling(seen.image, seen.prior, None)
        return Pass(begin, planned.evaluations, planned.detail, everything)

    words = found.describe().removeprefix("found ")
    return Finding(words, "inpaint", prepare, hides=hole, waits=True)
