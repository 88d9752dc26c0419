"""Scratches as the holes to fill: what `--scratches` marks and `--mask scratches` fills."""

from __future__ import annotations

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.masks import FillMask, grow
from restorer.measurement.scratches import LEVEL, RULE, Features, Rule, Scratches, find_scratches
from restorer.models.load import load_prior, load_scratch_finder, load_stroke_judge, measuring_prior
from restorer.priors.encoder import encode
from restorer.priors.unet_prior import UNetPrior

__all__ = ["MARGIN", "features_of", "scratch_mask", "scratches_of"]

MARGIN = 1
"""Pixels by which scratches are grown before they are filled, because their flanks are soft."""


def features_of(prior: UNetPrior) -> Features:
    """Return the function by which the embedded prior gives the features that the finder reads."""
    return lambda image: encode(prior, 2 * image - 1, 2 * LEVEL / 255)


def scratches_of(
    image: Tensor, evidence: Tensor | None = None, *, rule: Rule = RULE, prior: Prior | None = None
) -> Scratches:
    """Find the scratches, dust, hairs and creases of a picture, and how sure they are.

    Args:
        image: float (C, H, W) in [0, 1] with C = 1 or 3.
        evidence: bool (H, W), the pixels that count; None for all of them.
        rule: Which places count as damaged.
        prior: A prior. The embedded prior, which takes part, runs on the device and in the precision of this one; None
            for those that `load_prior` selects.

    Raises:
        ModelError: The installation lacks the weights of the networks that find them.
    """
    embedded = measuring_prior(load_prior() if prior is None else prior)
    finder = load_scratch_finder(embedded.device)
    return find_scratches(image, finder, features_of(embedded), evidence, load_stroke_judge(), rule)


def scratch_mask(
    image: Tensor,
    evidence: Tensor | None = None,
    *,
    invert: bool = False,
    margin: int | None = None,
    prior: Prior | None = None,
) -> FillMask:
    """Return the scratches of a picture as the holes to fill, with a note on what was found.

    Args:
        image: As in `scratches_of`.
        evidence: As in `scratches_of`.
        invert: Whether everything else is filled instead.
        margin: Pixels by which they are grown; None for MARGIN.
        prior: As in `scratches_of`.

    Raises:
        ModelError: As for `scratches_of`.
    """
    found = scratches_of(image, evidence, prior=prior)
    used = MARGIN if margin is None else margin
    notes = [found.describe()]
    if used and found.places:
        notes.append(f"the mask is grown by {used} pixel{'s' if used > 1 else ''}")
    return FillMask(grow(found.fill, used) != invert, "; ".join(notes))
