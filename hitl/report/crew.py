"""Who rated: people, simulated raters, or both. Whatever the report says of raters depends on it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hitl.report import words
from hitl.report.files import RoundFiles
from hitl.report.provenance import settings

Who = Literal["people", "simulated", "mixed", "unknown"]


def who_rated(rate: Mapping[str, Any]) -> Who:
    """By a rate stage's manifest; older versions do not say."""
    machines, everybody = rate.get("simulated"), int(rate.get("raters") or 0)
    if machines is None or not everybody:
        return "unknown"
    if not machines:
        return "people"
    return "simulated" if machines == everybody else "mixed"


def who_taught(rounds: Sequence[RoundFiles]) -> Who:
    """Whose ratings are behind the last round: those of all rounds so far."""
    told = [files.manifests.get("rate") or {} for files in rounds]
    found: set[Who] = {who_rated(rate) for rate in told if rate.get("raters")}
    if len(found) == 1:
        return found.pop()
    return "unknown" if not found or "unknown" in found else "mixed"


def counted(rate: Mapping[str, Any]) -> str:
    """`96 ratings by 1 simulated rater`."""
    everybody = int(rate.get("raters") or 0)
    who = who_rated(rate)
    kind = "simulated " if who == "simulated" else ""
    mixed = f", {rate['simulated']} of them simulated" if who == "mixed" else ""
    ratings = words.count(int(rate.get("ratings") or 0), "rating")
    return f"{ratings} by {words.count(everybody, f'{kind}rater')}{mixed}"


def warning(rounds: Sequence[RoundFiles]) -> str:
    """What a reader must know before anything that raters said; empty where only people rated, or nobody knows."""
    who = who_taught(rounds)
    if who == "mixed":
        return "Some of the raters are programs: what raters say here is not people’s word alone."
    if who != "simulated":
        return ""
    ratings = sum(int(files.manifests.get("rate", {}).get("ratings") or 0) for files in rounds)
    taste = settings(rounds[-1]).get("simulated.taste_weight", 1)
    liked = "correct pictures with large shapes on light ground" if taste else "correct pictures"
    return (
        f"No person rated anything: all {words.count(ratings, 'rating')} are by simulated raters, programs that like "
        f"{liked}, with noise."
    )
