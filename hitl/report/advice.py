"""The first thing that a reader wants of a report: whether to use the model, in a few sentences under the headline.

It adds nothing to the numbers below: it weighs the verdict, what raters saw, best-of-N, diversity and the guard in that
order, by fixed rules, and says which of them it rests on.
"""

from collections.abc import Mapping, Sequence

from data.evaluation import DIVERSITY
from data.win_rates import policy_name
from hitl.report import words
from hitl.report.blind import Blind
from hitl.report.judgement import Judged, change
from hitl.report.words import Answer, Verdict

QUESTION = "Should it be used?"
BY_VERDICT = {
    "Better": "Yes, by these judges: it is better than the reference, the model before any training.",
    "Better in part": "Yes, if that is what you want: it is the only clear gain over the reference, the model "
    "before any training.",
    "Likely better": "Probably: programs that training did not use prefer it to the reference, the model before any "
    "training. People settle it: `hitl study new`.",
    "Mixed": "It is a trade: some judges rose and others fell. Use it only if you want the first more than the second.",
    "No clear change": "Not on this evidence: it cannot be told from the reference, the model before any training.",
    "Unproven": "Not on this evidence: only the reward that training climbed prefers it to the reference, the model "
    "before any training. People settle it: `hitl study new`.",
    "Likely worse": "No: programs that training did not use prefer the reference, the model before any training.",
    "Worse": "No: the reference, the model before any training, is better.",
    "Reward hacking": "No: training has learned to please the reward model, and the pictures are worse than the "
    "reference’s, which is the model before any training.",
    "Cannot say": "Nobody can say: judge it on more prompts.",
}
"""What each verdict means for who wants to use the model."""


def advice(
    verdict: Verdict,
    judged: Mapping[str, Sequence[Judged]],
    blind: Sequence[Blind],
    number: int,
    best_of: int | None,
    is_stopped: bool,
) -> Answer | None:
    """None for a round that is not judged."""
    if verdict.word not in BY_VERDICT:
        return None
    found = next((found for found in judged.values() if found), [])
    against_reference = [each for each in blind if (each.model, each.other) == (policy_name(number), policy_name(0))]
    tone = next((each.tone for each in against_reference), "")
    first = BY_VERDICT[verdict.word]
    if tone == "down":
        first = (
            "No: raters who compared them blind prefer the pictures of the reference, the model before any training."
        )
    seen = {
        "": "Nobody has compared its pictures blind yet.",
        "up": "Raters who compared them blind prefer its pictures.",
        "unclear": "Raters who compared them blind have no clear preference.",
        "unknown": "Raters have compared them blind on too few prompts to say.",
        "down": "",
    }[tone]
    warnings = []
    if verdict.tone in ("good", "mixed"):
        warnings = _best_of(found, best_of)
    if any(each.measure.key == DIVERSITY and each.change == "down" for each in found):
        warnings.append("Its pictures of one prompt are clearly more alike than the reference’s.")
    if is_stopped:
        warnings.append("The guard ended its training early; this is the best policy that it saw.")
    return Answer(question=QUESTION, sentences=tuple(each for each in (first, seen, *warnings) if each))


def _best_of(found: Sequence[Judged], best_of: int | None) -> list[str]:
    shown = [each for each in words.headline_measures(found) if each.over_best is not None]
    if not shown or best_of is None:
        return []
    rival = f"keeping the best of {best_of} pictures of the reference by the learned reward, which needs no training"
    behind, ahead = (
        words.listed(each.measure.noun for each in shown if change(each.over_best) == way) for way in ("down", "up")
    )
    sentences = [f"By {behind}, {rival}, does better."] if behind else []
    if ahead:
        sentences.append(f"By {ahead}, it beats {'that' if behind else rival}.")
    return sentences or [f"It is not clearly better than {rival}."]
