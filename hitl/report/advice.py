"""The first thing that a reader wants of a report: whether to use the model, in a few sentences under the headline.

It adds nothing to the numbers below: it weighs the verdict, what raters saw, best-of-N, diversity and the guard in that
order, by fixed rules, and says which of them it rests on.
"""

from collections.abc import Mapping, Sequence

from data.evaluation import DIVERSITY
from data.win_rates import policy_name
from hitl.report import words
from hitl.report.blind import Blind
from hitl.report.crew import Who
from hitl.report.judgement import Judged, change
from hitl.report.words import Answer, Verdict

QUESTION = "Should it be used?"
BY_VERDICT = {
    "Better": "Yes, by these judges: it is better than the reference, the model before any training.",
    "Better in part": "Yes, if {rose} is what you want: it clearly rose over the reference, the model before any "
    "training; correctness did not.",
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
"""What each verdict means for who wants to use the model; `rose` are the measures that clearly did."""
_LITTLE = 0.1
"""Standard deviations of the reference's pictures: nobody sees less."""


def advice(
    verdict: Verdict,
    judged: Mapping[str, Sequence[Judged]],
    blind: Sequence[Blind],
    number: int,
    best_of: int | None,
    is_stopped: bool,
    who: Who = "unknown",
    fell: tuple[list[tuple[str, Judged]], int] = ([], 0),
) -> Answer | None:
    """None for a round that is not judged. `who` rated; `fell` is `judgement.falls` of the round."""
    if verdict.word not in BY_VERDICT:
        return None
    found = next((found for found in judged.values() if found), [])
    against_reference = [each for each in blind if (each.model, each.other) == (policy_name(number), policy_name(0))]
    tone = next((each.tone for each in against_reference), "")
    voted = next((each.who for each in against_reference), who)
    raters = {"people": "people", "simulated": "simulated raters"}.get(voted, "raters")
    rose = words.listed(each.measure.noun for each in words.headline_measures(found) if each.change == "up")
    first = BY_VERDICT[verdict.word].format(rose=rose)
    if tone == "down":
        first = (
            f"No: {raters} who compared them blind prefer the pictures of the reference, the model before any training."
        )
    elif who == "simulated" and verdict.tone in ("good", "mixed"):
        first = (
            "Not for people yet: none has judged it, and `hitl study new` asks some. By the programs that did, "
            f"{words.lower(first)}"
        )
    seen = {
        "": "Nobody has compared its pictures blind yet.",
        "up": f"{raters.capitalize()} who compared them blind prefer its pictures.",
        "unclear": f"{raters.capitalize()} who compared them blind have no clear preference.",
        "unknown": f"{raters.capitalize()} have compared them blind on too few prompts to say.",
        "down": "",
    }[tone]
    warnings = []
    if verdict.tone in ("good", "mixed"):
        warnings = _best_of(found, best_of)
    if any(each.measure.key == DIVERSITY and each.change == "down" for each in found):
        warnings.append("Its pictures of one prompt are clearly more alike than the reference’s.")
    warnings += _lost(*fell)
    if is_stopped:
        warnings.append("The guard ended its training early; this is the best policy that it saw.")
    instead = _instead(found, blind, number)
    return Answer(question=QUESTION, sentences=tuple(each for each in (first, instead, seen, *warnings) if each))


def _instead(found: Sequence[Judged], blind: Sequence[Blind], number: int) -> str:
    """Whether it is better than the policy that the round started from; empty where nobody compared them."""
    shown = [each for each in words.headline_measures(found) if each.since_last is not None]
    if not shown:
        return ""
    ways = {"up": "rose", "down": "fell", "unclear": "did not clearly change", "unknown": "cannot be told"}
    told = {
        way: [
            f"{each.measure.noun} {said} ({words.ruler(each).with_interval(each.since_last)})"
            for each in shown
            if each.since_last is not None and change(each.since_last) == way
        ]
        for way, said in ways.items()
    }
    ups, downs = told["up"], told["down"]
    rises = [
        each.since_last.mean / each.spread
        for each in shown
        if each.since_last is not None and each.spread and change(each.since_last) == "up"
    ]
    yes = "Hardly" if rises and max(rises) < _LITTLE else "Yes"
    word = "It is a trade" if ups and downs else yes if ups else "No" if downs else "Nothing says so"
    rest = "; ".join(each for way in ways for each in told[way])
    tones = [each.tone for each in blind if (each.model, each.other) == (policy_name(number), policy_name(number - 1))]
    seen = {"up": "; blind, raters prefer it", "down": f"; blind, raters prefer round {number - 1}’s"}
    return f"Instead of round {number - 1}’s? {word}: {rest}{seen.get(tones[0], '') if tones else ''}."


def _lost(fell: Sequence[tuple[str, Judged]], looked: int) -> list[str]:
    if not fell:
        return []
    task, each = fell[0]
    where = f"{words.short(each.split)}{f', task {task}' if task else ''}"
    told = f"{words.lower(each.measure.name)}{words.levels(each)} {words.ruler(each).with_interval(each.gain)}"
    rank = "the only clear fall" if len(fell) == 1 else f"the largest of {len(fell)} clear falls"
    return [f"Lost ({where}): {told}, {rank} in {looked} comparisons of tasks and measures."]


def _best_of(found: Sequence[Judged], best_of: int | None) -> list[str]:
    shown = [each for each in words.headline_measures(found) if each.over_best is not None]
    if not shown or best_of is None:
        return []
    rival = f"drawing {best_of} pictures by the reference and keeping the best by the learned reward, with no training,"
    behind, ahead = (
        words.listed(each.measure.noun for each in shown if change(each.over_best) == way) for way in ("down", "up")
    )
    sentences = [f"By {behind}, {rival} does better."] if behind else []
    if ahead:
        sentences.append(f"By {ahead}, it beats {'that' if behind else rival.removesuffix(',')}.")
    return sentences or [f"It is not clearly better than {rival.removesuffix(',')}."]
