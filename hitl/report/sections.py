"""The report's plots below the fold: over the rounds, while training, by task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from data.bootstrap import Interval
from data.evaluation import KL, POLICY, REWARD
from hitl.report import figures, words
from hitl.report.figures import Series
from hitl.report.files import RoundFiles
from hitl.report.judgement import BY_KEY, Judged, Measure, independent, judge_round, judge_tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot, ready for the page."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelGroup:
    """Plots that are read together, and the key to their colours (CSS variable, label)."""

    title: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...] = ()


History = Mapping[int, Mapping[str, Sequence[Judged]]]
"""Round -> split -> what it was judged."""


class _Look(TypedDict):
    colour: str
    marker: str
    dashes: str


_REWARD_LOOK: _Look = {"colour": "reward", "marker": "s", "dashes": "-"}
_JUDGE_LOOKS: tuple[_Look, ...] = (
    {"colour": "policy", "marker": "o", "dashes": "-"},
    {"colour": "taste", "marker": "D", "dashes": "-"},
    {"colour": "trained", "marker": "^", "dashes": "-"},
    {"colour": "best", "marker": "v", "dashes": "-"},
)
"""How the learned reward and its judges, in their order, are drawn wherever they meet. Of more judges, the first."""


# -- over the rounds ------------------------------------------------------------------------------------------------


def learning(rounds: Sequence[RoundFiles]) -> list[PanelGroup]:
    """Learned reward against its judges on one scale, then every measure in its own unit."""
    history = {files.number: judge_round(files) for files in rounds if files.summary}
    last = rounds[-1].number
    splits = list(dict.fromkeys(split for judged in history.values() for split in judged))
    best_of = next((files.best_of for files in reversed(rounds) if files.best_of), None)
    groups = [_against_judges(rounds, history, splits, last), _by_measure(history, splits, last, best_of)]
    return [group for group in groups if group.panels]


def _series(history: History, split: str, key: str) -> dict[int, Judged]:
    return {
        number: each for number, judged in history.items() for each in judged.get(split, []) if each.measure.key == key
    }


def judges_of(judged: Mapping[str, Sequence[Judged]]) -> str:
    """What the learned reward can be held against, in words; empty where there is nothing."""
    kinds = {each.measure.kind for found in judged.values() for each in independent(found)}
    return "gold" if "gold" in kinds else "the rewards that training did not use" if kinds else ""


def _compared(history: History) -> dict[str, Measure]:
    """The learned reward and its judges: gold, or where there is none the rewards that training did not use."""
    found = [each.measure for judged in history.values() for own in judged.values() for each in independent(own)]
    if any(measure.is_gold for measure in found):
        found = [measure for measure in found if measure.is_gold and measure.key != "exact"]  # correctness says it too
    judges = list({measure.key: measure for measure in found}.values())[: len(_JUDGE_LOOKS)]
    return {measure.key: measure for measure in (BY_KEY[REWARD], *judges)}


def _against_judges(rounds: Sequence[RoundFiles], history: History, splits: Sequence[str], last: int) -> PanelGroup:
    """In standard deviations of the reference's pictures; a measure whose deviation is not known is left out."""
    measures = _compared(history)
    looks = dict(zip(measures, (_REWARD_LOOK, *_JUDGE_LOOKS), strict=False))
    panels, shown = [], []
    for split in splits:
        gains = _in_deviations(history, split, measures)
        shown += list(gains)
        series = [
            Series(points=points, shift=0.07 * (place - 1), **looks[key])
            for place, (key, points) in enumerate(gains.items())
        ]
        if series:
            name = words.SPLITS.get(split, split)
            names = words.listed(measures[key].noun for key in gains)
            alt = f"{name}: gain over the reference by round, {names}, in standard deviations"
            svg = figures.over_rounds(f"against-{split}", series, last, unit="gain, SD", alt=alt)
            panels.append(Panel(title=name, svg=svg))
    against = judges_of({split: found for judged in history.values() for split, found in judged.items()})
    if splits:
        panels += _paths(rounds, _in_deviations(history, splits[0], measures), looks, splits[0], against)
    legend = tuple((looks[key]["colour"], measures[key].name) for key in measures if key in shown)
    is_alone = set(shown) == {REWARD}
    title = "Learned reward" if is_alone or not against else f"Learned reward against {against}"
    return PanelGroup(title=title, panels=tuple(panels), legend=legend)


def _in_deviations(history: History, split: str, keys: Iterable[str]) -> dict[str, dict[int, Interval]]:
    """Measure -> round -> gain, in standard deviations of the reference's pictures."""
    gains = {
        key: {n: _scaled(each.gain, 1 / each.spread) for n, each in _series(history, split, key).items() if each.spread}
        for key in keys
    }
    return {key: points for key, points in gains.items() if points}


def _paths(
    rounds: Sequence[RoundFiles],
    gains: Mapping[str, Mapping[int, Interval]],
    looks: Mapping[str, _Look],
    split: str,
    against: str,
) -> list[Panel]:
    """The same gains against the learned reward's own gain, and against the distance from the reference."""
    name = words.SPLITS.get(split, split).lower()
    judge = "gold" if against == "gold" else "other rewards"
    panels = []
    reward = gains.get(REWARD, {})
    judges = {key: points for key, points in gains.items() if key != REWARD}
    against_reward = _path_of(judges, {n: each.mean for n, each in reward.items()}, looks)
    if against_reward:
        svg = figures.against(
            "gold-reward",
            against_reward,
            x_label="gain of the learned reward, SD",
            y_label=f"gain of {judge}, SD",
            alt=f"Gain of {judge} against gain of the learned reward, {name}",
        )
        title = f"{judge.capitalize()} by learned reward"
        panels.append(Panel(title=title, svg=svg, note=f"{name}; numbers are rounds"))
    along, unit, left_out = distances(rounds, split)
    against_kl = _path_of(gains, along, looks)
    if against_kl:
        svg = figures.against(
            "gold-kl",
            against_kl,
            x_label=f"KL to the reference, {unit}",
            y_label="gain, SD",
            alt=f"Gains against the distance from the reference, {name}",
        )
        note = f"{name}; numbers are rounds"
        if left_out:
            note += f"; without {words.listed(f'round {n}' for n in left_out)}, judged by an older version"
        panels.append(Panel(title="Gain by KL", svg=svg, note=note))
    return panels


def distances(rounds: Sequence[RoundFiles], split: str) -> tuple[dict[int, float], str, list[int]]:
    """Round -> KL to the reference; its unit; and the judged rounds that have none in that unit.

    Nats of a whole trajectory, as judging measured them. Where no round has that, the last epoch's mean per step.
    """
    judged = {files.number: files.subject(POLICY, split, KL) for files in rounds if files.summary}
    whole = {number: found.mean for number, found in judged.items() if found is not None}
    if whole:
        return whole, "nats", [number for number in judged if number not in whole]
    per_step = {
        files.number: float(row["metrics"]["kl_per_step"])
        for files in rounds
        for row in files.stage_metrics("train")
        if figures.finite([(row.get("metrics") or {}).get("kl_per_step")])
    }
    return per_step, "nats per step", []


def _path_of(
    gains: Mapping[str, Mapping[int, Interval]], along: Mapping[int, float], looks: Mapping[str, _Look]
) -> list[figures.Trace]:
    paths = [
        figures.Trace(
            colour=looks[key]["colour"],
            marker=looks[key]["marker"],
            points=[(n, along[n], each) for n, each in sorted(points.items()) if n in along],
        )
        for key, points in gains.items()
    ]
    return [path for path in paths if path.points]


def _by_measure(history: History, splits: Sequence[str], last: int, best_of: int | None) -> PanelGroup:
    colours = dict(zip(splits, ("policy", "trained", "muted", "reference"), strict=False))
    panels, has_best = [], False
    newest_of = {
        each.measure.key: each.measure for judged in history.values() for found in judged.values() for each in found
    }
    for measure in newest_of.values():
        by_split = {split: _series(history, split, measure.key) for split in splits}
        newest = next((found[max(found)] for found in by_split.values() if found), None)
        if newest is None:
            continue
        unit = words.ruler(newest).unit
        by_split = {
            split: {n: each for n, each in found.items() if words.ruler(each).unit == unit}
            for split, found in by_split.items()
        }
        # Each by its own ruler: an SD is that of the split's pictures by the round's own reward model.
        series = [
            Series(
                colour=colours.get(split, "muted"),
                points={n: _scaled(each.gain, words.ruler(each).scale) for n, each in found.items()},
                shift=0.05 * (place - 0.5),
                marker="o" if place == 0 else "s",
            )
            for place, (split, found) in enumerate(by_split.items())
            if found
        ]
        best = {
            n: _scaled(each.best_gain, words.ruler(each).scale)
            for n, each in by_split[splits[0]].items()
            if each.best_gain is not None
        }
        if best:
            has_best = True
            series.insert(0, Series(colour="best", points=best, marker="^", dashes=":", shift=0.12))
        alt = f"{measure.name}: gain over the reference by round"
        gain = "" if measure.key == KL else "gain"  # of the reference it is 0
        unit = ", ".join(part for part in (gain, unit) if part)
        svg = figures.over_rounds(f"gain-{measure.key}", series, last, unit=unit, alt=alt)
        panels.append(Panel(title=measure.name, svg=svg, note=measure.judge))
    legend = [(colours.get(split, "muted"), words.SPLITS.get(split, split)) for split in splits]
    if has_best:
        legend.append(
            ("best", f"best of {best_of} of the reference ({words.SPLITS.get(splits[0], splits[0]).lower()})")
        )
    return PanelGroup(title="Gain over the reference, by judge", panels=tuple(panels), legend=tuple(legend))


def _scaled(found: Interval, scale: float) -> Interval:
    return Interval(found.mean * scale, found.low * scale, found.high * scale, found.n, found.clusters)


# -- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    panels: tuple[Panel, ...]
    ratio: str
    """The check that the policy ratio is 1 on fresh samples, in words."""


def training(rounds: Sequence[RoundFiles]) -> Training:
    """Reward and KL epoch by epoch, the rounds one after the other."""
    rows = [(files.number, row.get("metrics") or {}) for files in rounds for row in files.stage_metrics("train")]

    def values(name: str) -> list[tuple[int, float]]:
        return [(number, float(found[name])) for number, found in rows if figures.finite([found.get(name)])]

    panels = []
    if reward := values("reward_mean"):
        within = [value for _, value in values("reward_std_within_prompt")]
        svg = figures.training_curve(
            "train-reward",
            reward,
            colour="reward",
            unit="mean reward",
            band=within if len(within) == len(reward) else None,
            alt="Mean learned reward of the images of each training epoch",
        )
        panels.append(
            Panel(
                title="Learned reward while training",
                svg=svg,
                note="Each round has its own reward model: levels compare within a round only. "
                "The band is the spread within a prompt.",
            )
        )
    if kl := values("kl_per_step"):
        svg = figures.training_curve(
            "train-kl",
            kl,
            colour="policy",
            unit="nats per step",
            alt="KL to the reference, per step, in each training epoch",
        )
        panels.append(
            Panel(
                title="KL to the reference",
                svg=svg,
                note="Mean exact Gaussian KL of a step with noise; "
                "the KL that a round is judged by is of all these steps together.",
            )
        )
    ratios = [abs(value) for _, value in values("first_pass_log_ratio")]
    ratio = ""
    if ratios:
        ratio = (
            f"Policy ratio on fresh samples, before any clamp: |log ratio| at most {words.tiny(max(ratios))} nats "
            f"in {words.count(len(ratios), 'epoch')} (0 is exact)."
        )
    return Training(panels=tuple(panels), ratio=ratio)


# -- tasks ----------------------------------------------------------------------------------------------------------


def task_panels(latest: RoundFiles) -> list[PanelGroup]:
    """Bars by task, one group per split: levels of gold, and gains of the learned reward."""
    groups = []
    for split in latest.splits:
        found = {key: judge_tasks(latest, split, key) for key in ("exact", "correctness", "taste", "reward")}
        panels = [_task_panel(split, key, judged) for key, judged in found.items() if judged]
        legend = [("reference", "reference"), ("policy", f"round {latest.number}")]
        if latest.best_of and any(each.best for judged in found.values() for each in judged.values()):
            legend.append(("best", f"best of {latest.best_of} of the reference"))
        if panels:
            groups.append(PanelGroup(title=words.SPLITS.get(split, split), panels=tuple(panels), legend=tuple(legend)))
    return groups


def _task_panel(split: str, key: str, judged: Mapping[str, Judged]) -> Panel:
    measure = BY_KEY[key]
    name = f"tasks-{split}-{key}"
    if not measure.is_gold:
        ruler = words.ruler(next(iter(judged.values())))
        rows = {task: {"policy": each.gain} for task, each in judged.items()}
        unit = f"gain, {ruler.unit}" if ruler.unit else "gain"
        svg = figures.task_bars(
            name, rows, scale=ruler.scale, unit=unit, alt=f"{measure.name} by task: gain over the reference"
        )
        return Panel(
            title=f"{measure.name}, gain", svg=svg, note="Its level means nothing across prompts, so gains only."
        )
    rows = {
        task: {"reference": each.reference, "policy": each.policy} | ({"best": each.best} if each.best else {})
        for task, each in judged.items()
    }
    svg = figures.task_bars(
        name,
        rows,
        scale=100.0 if measure.is_share else 1.0,
        unit="% of pictures" if key == "exact" else "%" if measure.is_share else "score",
        alt=f"{measure.name} by task: reference, policy and best-of-N",
        limits=(0, 100) if measure.is_share else None,
    )
    return Panel(title=measure.name, svg=svg)
