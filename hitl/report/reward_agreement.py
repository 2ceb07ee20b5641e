"""Whether people agree with a round's reward model about the pictures of the policy that was trained on it.

The next round asks: pairs of that policy's pictures of trained-on prompts, which its fit compares with the earlier
model's scores, and blind votes on held-out prompts, which its rate stage compares with the scores of the evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.bootstrap import LEAST_CLUSTERS, Interval, not_narrower
from data.win_rates import of_enough
from hitl.report import words
from hitl.report.files import RoundFiles, interval
from hitl.report.provenance import settings

_NOT_YET = "not rated yet: the next round asks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The share of the decided comparisons that the reward model orders as people did; or why it is not known."""

    found: Interval | None
    said: str
    """What it says beside a coin's 50 %, or why there is none."""
    compared: str
    """On how much it rests."""


def reward_agreements(files: RoundFiles, later: Mapping[str, Mapping[str, Any]]) -> dict[str, Agreement]:
    """By split; empty for a round without a reward model. `later` has the manifests of the round after."""
    if not files.fit:
        return {}
    known = {"held_out": _of_votes(files, later), "train": _of_pairs(files, later)}
    agreements = {}
    for split, each in known.items():
        if isinstance(each, str):
            agreements[split] = Agreement(found=None, said=each, compared="")
        else:
            found = of_enough(not_narrower(each))
            agreements[split] = Agreement(found=found, said=_told(found), compared=_size(found, split))
    return agreements


def _of_pairs(files: RoundFiles, later: Mapping[str, Mapping[str, Any]]) -> Interval | str:
    if "fit" not in later:
        return "rated; the next round’s fit compares" if "rate" in later else _NOT_YET
    previous = (later["fit"].get("report") or {}).get("previous") or {}
    found = interval(previous.get("accuracy")) if previous.get("round") == files.number else None
    return found or f"not known: the fit of round {files.number + 1} compared nothing"


def _of_votes(files: RoundFiles, later: Mapping[str, Mapping[str, Any]]) -> Interval | str:
    if "rate" not in later:
        return _NOT_YET if settings(files).get("rate.blind", 1) else "nobody is asked: rate.blind is 0"
    if "reward_agreement" not in later["rate"]:
        return "not known: an older version took the ratings"
    return interval(later["rate"]["reward_agreement"]) or "not known: no blind vote decided"


def _told(found: Interval) -> str:
    if found.clusters < LEAST_CLUSTERS:
        return f"too few prompts to say ({found.clusters}; at least {LEAST_CLUSTERS} are needed)"
    if found.low > 0.5:
        return "clearly better than a coin"
    return "clearly worse than a coin" if found.high < 0.5 else "cannot be told from a coin"


def _size(found: Interval, split: str) -> str:
    votes = words.count(found.n, "blind vote" if split == "held_out" else "comparison")
    return f"{votes}{'' if split == 'held_out' else ' of its pictures'} on {words.count(found.clusters, 'prompt')}"
