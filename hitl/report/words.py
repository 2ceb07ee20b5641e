"""Puts numbers into words: the verdict of a round, its story, and how a value or an interval is written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from data.bootstrap import LEAST_CLUSTERS, Interval
from data.evaluation import DIVERSITY
from hitl.report.judgement import FEW_PROMPTS, Change, Judged, Measure, change, independent, learned

Tone = Literal["good", "bad", "mixed", "flat", "unknown"]

CHANGES: dict[Change, str] = {
    "up": "clearly up",
    "down": "clearly down",
    "unclear": "no clear change",
    "unknown": "cannot say",
}
SPLITS = {"held_out": "Held-out prompts", "train": "Trained-on prompts"}
_ON = {"held_out": "on prompts it never trained on", "train": "on the prompts it trained on"}
_RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
_THIN = "\u202f"  # narrow no-break space, between a number and its unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The round in one line."""

    word: str
    tone: Tone
    headline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question that a reader has, and what the round's files answer."""

    question: str
    sentences: tuple[str, ...]


# -- numbers --------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A number for reading: true minus sign, no minus zero, an en dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    rounded = round(value, digits) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")


def level(measure: Measure, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{number(100 * value, 0)}{_THIN}%" if measure.is_share else number(value, 2)


@dataclass(frozen=True, slots=True)
class Ruler:
    """In what unit a change of one measure is told."""

    scale: float
    digits: int
    unit: str

    @classmethod
    def of(cls, measure: Measure, spread: float | None) -> "Ruler":
        """Points for a share; else standard deviations of the reference's pictures, or the measure's own unit."""
        if measure.is_share:
            return cls(100.0, 1, "points")
        if spread is None:
            return cls(1.0, 2, measure.unit)
        return cls(1 / spread, 2, "SD")

    def mean(self, found: Interval) -> str:
        unit = (
            "point"
            if self.unit == "points" and number(abs(found.mean) * self.scale, self.digits) == "1.0"
            else self.unit
        )
        return f"{number(found.mean * self.scale, self.digits, sign=True)}{_THIN}{unit}".rstrip(_THIN)

    def ends(self, found: Interval) -> str:
        low, high = (number(end * self.scale, self.digits, sign=True) for end in (found.low, found.high))
        return f"{low} to {high}"

    def with_interval(self, found: Interval) -> str:
        if not math.isfinite(found.low):
            return f"{self.mean(found)} (no interval: one prompt)"
        return f"{self.mean(found)} [{self.ends(found).replace(' to ', ', ')}]"


def ruler(judged: Judged) -> Ruler:
    return Ruler.of(judged.measure, judged.spread)


def share(found: Interval) -> str:
    """A share as per cent, with its interval."""
    if not math.isfinite(found.low):
        return f"{number(100 * found.mean, 1)} % (no interval)"
    low, high = (number(100 * min(max(end, 0.0), 1.0), 1) for end in (found.low, found.high))
    return f"{number(100 * found.mean, 1)} % (95 % interval {low} to {high})"


def percents(parts: Sequence[float]) -> list[int]:
    """Parts of a whole as whole per cents that sum to 100: those with the largest remainders are rounded up."""
    exact = [100 * part / sum(parts) for part in parts]
    found = [math.floor(each) for each in exact]
    upwards = sorted(range(len(parts)), key=lambda i: found[i] - exact[i])
    for i in upwards[: 100 - sum(found)]:
        found[i] += 1
    return found


def left(side_bias: float) -> str:
    """How often somebody with that side bias, in log-odds, takes the left one of two equal images."""
    return f"{number(100 / (1 + math.exp(-float(side_bias))), 0)} %"


def tiny(value: float) -> str:
    """A small number as people write it: `3 × 10⁻⁶`, or plainly where it is not small."""
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.2g}"
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits} × 10{str(int(exponent)).translate(_RAISED)}"


def duration(seconds: float | None) -> str:
    """As short as it can be read: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f}{_THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_THIN}s"
    if whole < 3600:
        return f"{whole // 60}{_THIN}min {whole % 60:02d}{_THIN}s"
    return f"{whole // 3600}{_THIN}h {whole % 3600 // 60:02d}{_THIN}min"


def listed(things: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = list(things) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def count(amount: int, thing: str, things: str = "") -> str:
    return f"{amount:,} {thing if amount == 1 else things or f'{thing}s'}".replace(",", _THIN)


# -- verdict --------------------------------------------------------------------------------------------------------


def verdict(judged: dict[str, list[Judged]], round_number: int) -> Verdict:
    """The round in one line, by its first split (held out, where there is one): by gold, else by rewards that training
    did not use, else by the learned reward alone.
    """
    subject = f"round {round_number}’s pictures"
    if not judged or not any(judged.values()):
        return Verdict(word="Not judged", tone="unknown", headline=f"Round {round_number} is not judged yet.")
    split, found = next((split, found) for split, found in judged.items() if found)
    where = _where(split)
    judges, reward = independent(found), learned(found)
    if not judges:
        return _by_reward_alone(reward, where, subject, round_number)
    by_gold = judges[0].measure.is_gold
    ups, downs = ([each for each in judges if each.change == way] for way in ("up", "down"))
    unclear = [each for each in judges if each.change == "unclear"]
    worse = listed(each.measure.worse for each in _essential(downs))
    better = listed(each.measure.better for each in _essential(ups))
    if downs and reward is not None and reward.change == "up" and not ups:
        return Verdict(
            word="Reward hacking",
            tone="bad",
            headline=f"The learned reward rose, but {where}, {subject} are {worse}.",
        )
    if ups and downs:
        return Verdict(word="Mixed", tone="mixed", headline=f"{_capital(where)}, {subject} are {better}, but {worse}.")
    if downs:
        word = "Worse" if by_gold else "Likely worse"
        return Verdict(word=word, tone="bad", headline=f"{_capital(where)}, {subject} are {worse}.")
    if ups and not by_gold:
        return Verdict(word="Likely better", tone="good", headline=f"{_capital(where)}, {subject} are {better}.")
    if ups:
        rest = [each for each in _essential(unclear) if each.measure.is_share]
        is_partial = bool(rest) and not any(each.measure.is_share for each in ups)
        tail = "; no clear change in correctness" if is_partial else ""
        return Verdict(
            word="Better in part" if is_partial else "Better",
            tone="good",
            headline=f"{_capital(where)}, {subject} are {better}{tail}.",
        )
    if not unclear:
        return Verdict(
            word="Cannot say",
            tone="unknown",
            headline=f"{_capital(where)}, nobody can say: one prompt gives no interval.",
        )
    return _unclear(judged, split, where)


def _unclear(judged: dict[str, list[Judged]], split: str, where: str) -> Verdict:
    other = [each for found in judged.values() for each in independent(found) if each.split != split]
    ups = _essential([each for each in other if each.change == "up"])
    headline = f"No clear change {where}"
    if ups:
        better = listed(each.measure.better for each in ups)
        headline = f"{_capital(_where(ups[0].split))}, pictures are {better}; {where}, no clear change"
    return Verdict(word="No clear change", tone="flat", headline=f"{headline}.")


def _by_reward_alone(reward: Judged | None, where: str, subject: str, round_number: int) -> Verdict:
    way = "unknown" if reward is None else reward.change
    headline = {
        "up": f"The learned reward prefers {subject} {where}; no independent judge has seen them.",
        "down": f"{_capital(where)}, even the learned reward likes {subject} less than the reference’s.",
        "unclear": f"No clear change {where}, even by the learned reward.",
        "unknown": f"{_capital(where)}, nobody can say: one prompt gives no interval.",
    }[way]
    word = {"up": "Unproven", "down": "Worse", "unclear": "No clear change", "unknown": "Cannot say"}[way]
    tone: Tone = {"up": "mixed", "down": "bad", "unclear": "flat", "unknown": "unknown"}[way]  # type: ignore[assignment]
    return Verdict(word=word, tone=tone, headline=headline)


def _essential(found: Sequence[Judged]) -> list[Judged]:
    """Without graded correctness where the strict verdict says the same."""
    has_exact = any(each.measure.key == "exact" for each in found)
    return [each for each in found if not (has_exact and each.measure.key == "correctness")]


# -- story ----------------------------------------------------------------------------------------------------------


def story(
    judged: dict[str, list[Judged]],
    best_of: int | None,
    bias: dict[str, Judged],
    *,
    is_simulated: bool = False,
    is_guarded: bool = False,
) -> list[Answer]:
    """What a reader wants to know before anything else, in their order. `is_simulated`: no person rated; `is_guarded`:
    a guard watched these judges while training.
    """
    if not judged or not any(judged.values()):
        return []
    answers = [
        Answer(question="Did it get better?", sentences=tuple(_what_changed(judged, bias))),
        Answer(question="By whose judgement?", sentences=tuple(_by_whom(judged, is_simulated, is_guarded))),
        Answer(question="How sure is that?", sentences=tuple(_how_sure(judged))),
        Answer(question="Was training worth it?", sentences=tuple(_worth_it(judged, best_of))),
    ]
    return [answer for answer in answers if answer.sentences]


def _what_changed(judged: dict[str, list[Judged]], bias: dict[str, Judged]) -> list[str]:
    sentences = []
    for split, found in judged.items():
        told = [_told(each) for each in headline_measures(found)]
        if told:
            sentences.append(f"{_capital(short(split))}: {'; '.join(told)}.")
    for split, each in bias.items():
        size = f"{count(each.gain.clusters, 'prompt')}, {count(each.gain.n, 'picture')}"
        few = each.gain.clusters < LEAST_CLUSTERS
        told = f"{lower(each.measure.name)}{levels(each) or ','} too few prompts to say" if few else _told(each)
        what = " (the starter was taught on purpose that stars are yellow)" if split == next(iter(bias)) else ""
        sentences.append(f"Planted bias{what}, {short(split)} ({size}): {told}.")
    return sentences


def deciding(found: Sequence[Judged]) -> list[Judged]:
    """What the first screen shows: those whose rise means something, and diversity; without any the learned reward."""
    reward = learned(found)
    shown = independent(found) or ([reward] if reward else [])
    return shown + [each for each in found if each.measure.key == DIVERSITY]


def rest(found: Sequence[Judged]) -> list[Judged]:
    """What is folded away on the first screen."""
    shown = {each.measure.key for each in deciding(found)}
    return [each for each in found if each.measure.key not in shown]


def explained(judged: dict[str, list[Judged]]) -> str:
    """How the table of the first screen is read."""
    found = next((found for found in judged.values() if found), [])
    spreads = [f"{each.measure.noun} {number(each.spread, 2)}" for each in deciding(found) if ruler(each).unit == "SD"]
    unit = f" SD: standard deviation of the reference’s own pictures ({listed(spreads)})." if spreads else ""
    return (
        "The reference is the model before any training; gains are of the same prompts and seeds."
        f"{unit} Dot and bar: the gain and its interval; thin tick: no change. Green: clearly up; red: clearly down; "
        "grey: no clear change, or neither is better; pink: what training climbs."
    )


def headline_measures(found: Sequence[Judged]) -> list[Judged]:
    reward = learned(found)
    return _essential(independent(found)) or ([reward] if reward else [])


def _told(each: Judged) -> str:
    return f"{lower(each.measure.name)}{levels(each)} {ruler(each).with_interval(each.gain)}, {CHANGES[each.change]}"


def levels(each: Judged) -> str:
    if not each.measure.is_share or each.reference is None or each.policy is None:
        return ""
    return f" {number(100 * each.reference.mean, 0)} → {level(each.measure, each.policy.mean)},"


def _by_whom(judged: dict[str, list[Judged]], is_simulated: bool, is_guarded: bool) -> list[str]:
    found = next(found for found in judged.values() if found)
    judges, reward = independent(found), learned(found)
    sentences = []
    if any(each.measure.is_share for each in judges):
        sentences.append(
            "By gold: a verifier, which is a program that reads each picture, and taste, a fixed rule. "
            "No training step sees either."
        )
    elif any(each.measure.is_gold for each in judges):
        sentences.append("By gold: taste, a fixed rule that no training step sees.")
    elif judges:
        names = listed(each.measure.name for each in judges)
        sentences.append(f"{names}, which training did not use; these prompts have no gold score.")
    else:
        sentences.append("The learned reward alone: these prompts have no gold score. Compare the pictures yourself.")
    if judges and judges[0].measure.is_gold and is_simulated:
        sentences.append(
            "The simulated raters answer by the same rules, with noise: a rise shows that the loop works, not that "
            "people like the pictures."
        )
    if judges and is_guarded:
        sentences.append("The guard looks at them too, to stop training and to choose the policy that is kept.")
    if reward is not None and judges:
        moved = ruler(reward).mean(reward.gain)
        sentences.append(f"The learned reward, which training climbs, moved {moved}: {_agreement(reward, judges)}.")
    return sentences


def _agreement(reward: Judged, judges: Sequence[Judged]) -> str:
    """Whether the others follow the learned reward: the sign of reward hacking is that they do not."""
    if reward.change != "up":
        return CHANGES[reward.change]
    fell, rose = (
        [each.measure.noun for each in _essential([j for j in judges if j.change == way])] for way in ("down", "up")
    )
    if fell:
        return f"but {listed(fell)} fell, which is what reward hacking looks like"
    if rose:
        stayed = [each.measure.noun for each in _essential([j for j in judges if j.change == "unclear"])]
        return f"{listed(rose)} rose with it{f'; {listed(stayed)} did not' if stayed else ''}"
    return f"{'gold does' if judges[0].measure.is_gold else 'they do'} not confirm it yet"


def _how_sure(judged: dict[str, list[Judged]]) -> list[str]:
    sizes = [(split, found[0].gain) for split, found in judged.items() if found]
    told = [f"{count(gain.clusters, short(split) + ' prompt')} ({count(gain.n, 'picture')})" for split, gain in sizes]
    shown = sum(len(found) for found in judged.values())
    sentences = [f"{_capital(listed(told))}, drawn by both models from the same seeds."]
    if any(math.isfinite(each.gain.low) for found in judged.values() for each in found):
        sentences.append(
            f"Brackets are 95{_THIN}% intervals over prompts. Each of the {shown} intervals stands alone: about one in "
            "twenty misses the truth."
        )
    few = [split for split, gain in sizes if 1 < gain.clusters < FEW_PROMPTS]
    if few:
        sentences.append(
            f"Few {listed(short(split) for split in few)} prompts, so the intervals are wide: Student’s t."
        )
    return sentences


def _worth_it(judged: dict[str, list[Judged]], best_of: int | None) -> list[str]:
    split, found = next((split, found) for split, found in judged.items() if found)
    shown = headline_measures(found)
    ways: dict[Change, str] = {
        "up": "ahead",
        "down": "behind",
        "unclear": "no clear difference",
        "unknown": "cannot say",
    }
    against = [
        f"{lower(each.measure.name)} {ruler(each).with_interval(each.over_best)}, {ways[change(each.over_best)]}"
        for each in shown
        if each.over_best is not None
    ]
    if not against or not best_of:
        return []
    return [
        f"Against the best of {best_of} of the reference’s pictures by learned reward, which costs no training but "
        f"{best_of} drawn for each one kept, {short(split)}: {'; '.join(against)}."
    ]


def _where(split: str) -> str:
    return _ON.get(split, f"on prompts of the split {split}")


def short(split: str) -> str:
    return {"held_out": "held-out", "train": "trained-on"}.get(split, split)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def lower(text: str) -> str:
    return text[:1].lower() + text[1:]
