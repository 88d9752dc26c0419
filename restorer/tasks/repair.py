"""One thing that was found in a picture, and what is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Repair", "describe_repairs"]


@dataclass(frozen=True)
class Repair:
    """One thing that was found in a picture, and what is done about it.

    Args:
        step: The name of the step that has found it, for instance "noise".
        found: What was found, in words; empty for a change that was asked for.
        action: What is done about it, as the command that does the same alone, for instance "denoise".
    """

    step: str
    found: str
    action: str

    def describe(self) -> str:
        """Return both in words, such as "denoise (white noise of 5.0 levels)"."""
        return f"{self.action} ({self.found})" if self.found else self.action

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output holds."""
        return {"step": self.step, "found": self.found or None, "action": self.action}


def describe_repairs(repairs: Sequence[Repair]) -> str:
    """Return what was found and what will be done in one line of words."""
    if not repairs:
        return "found nothing"
    found = "; ".join(repair.found for repair in repairs if repair.found) or "nothing to repair"
    actions = dict.fromkeys(repair.action for repair in repairs)
    return f"found {found} · will {', then '.join(actions)}"
