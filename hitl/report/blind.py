"""What raters said who compared policies blind: of the rounds' pictures with the reference's, and with those before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.bootstrap import LEAST_CLUSTERS, Interval, not_narrower
from data.win_rates import of_enough, policy_name
from hitl.report import words
from hitl.report.crew import Who, who_rated
from hitl.report.files import RoundFiles, interval
from hitl.report.words import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """How often raters preferred one model's pictures to another's, not knowing which."""

    model: str
    other: str
    over_prompts: Interval
    over_raters: Interval
    ties: float
    who: Who = "unknown"
    """Who voted."""

    @property
    def tone(self) -> str:
        """What the interval over prompts says: one that holds 50 % says nothing."""
        if math.isnan(self.over_prompts.low):
            return "unknown"
        if self.over_prompts.low > 0.5:
            return "up"
        return "down" if self.over_prompts.high < 0.5 else "unclear"


def blind_of(rounds: Sequence[RoundFiles], later: dict[str, Any] | None) -> list[Blind]:
    """All that is known, the newest first: a round's ratings judge the policy of the round before. `later` is the rate
    stage's manifest of the round after the last of these, where it is there.
    """
    told = [files.manifests.get("rate", {}) for files in rounds] + ([later] if later else [])
    found = []
    for manifest, row in [(each, row) for each in reversed(told) for row in each.get("blind") or []]:
        over_prompts, over_raters = interval(row.get("over_prompts")), interval(row.get("over_raters"))
        if over_prompts is not None and over_raters is not None:
            found.append(
                Blind(
                    model=str(row["model"]),
                    other=str(row["other"]),
                    # Again, for older versions wrote narrower ones.
                    over_prompts=of_enough(not_narrower(over_prompts)),
                    over_raters=not_narrower(over_raters),
                    ties=float(row["ties"]),
                    who=who_rated(manifest),
                )
            )
    return found


def blind_answer(found: Sequence[Blind], number: int, who: Who) -> Answer:
    """What raters saw of round `number`'s pictures; or that they have not yet, and what they saw of earlier ones. `who`
    rated so far.
    """
    own = [each for each in found if each.model == policy_name(number)]
    sentences = [_sentence(each) for each in own]
    if not own:
        sentences.append(f"Nobody has compared round {number}’s pictures blind yet: the next round’s raters do.")
        sentences += [_sentence(each) for each in found if each.model == policy_name(number - 1)]
    whoever = {"people": "people", "unknown": "raters", "mixed": "raters", "simulated": "simulated raters"}
    asked = own[0].who if own else who
    return Answer(question=f"Do {whoever[asked]} see it?", sentences=tuple(sentences))


def _sentence(each: Blind) -> str:
    votes = each.over_prompts.n
    said = {"up": "clearly preferred", "down": "clearly not preferred", "unclear": "no clear preference"}
    said |= {"unknown": f"too few prompts to say ({each.over_prompts.clusters}; at least {LEAST_CLUSTERS} are needed)"}
    return (
        f"The {each.model} won {percent(each.over_prompts)} of {words.count(votes, 'blind vote')} against the "
        f"{each.other} (ties as halves), by {voters(each)}: {said[each.tone]}."
    )


def voters(each: Blind) -> str:
    kind = "simulated " if each.who == "simulated" else ""
    mixed = " (some simulated)" if each.who == "mixed" else ""
    return words.count(each.over_raters.clusters, f"{kind}rater") + mixed


def percent(found: Interval) -> str:
    """A share with its interval."""
    mean = f"{words.number(100 * found.mean, 0)}\u202f%"
    if found.low != found.low:
        return mean
    return f"{mean} [{words.number(100 * found.low, 0)}, {words.number(100 * found.high, 0)}]"
