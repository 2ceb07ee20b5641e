"""Numbers of a result as the pages print them. A page holds no number of a result that was not written by these."""

from collections.abc import Mapping, Sequence
from typing import Any

SPLIT_NAMES = {"train": "trained on", "held_out": "held out"}
TASK_NAMES = {
    "asked": "all four",
    "colour": "colour",
    "count": "count",
    "composition": "composition",
    "location": "location",
    "bias": "planted bias",
}
UNITS = {"exact": 100.0}
MEASURE_NAMES = {
    "reward": "reward, SD",
    "exact": "exact verdicts, points",
    "correctness": "graded correctness",
    "taste": "taste, SD",
    "clip": "zero-shot CLIP score",
}
_DIGITS = {"exact": 1}


def cell(found: Mapping[str, Any], measure: str = "", *, signed: bool = True) -> str:
    """`+1.20 [0.90, 1.50]`, in the measure's unit."""
    unit, digits = UNITS.get(measure, 1.0), _DIGITS.get(measure, 3 if measure in ("clip", "correctness") else 2)

    def number(value: float, sign: str = "") -> str:
        return f"{unit * value:{sign}.{digits}f}".replace("-", "−")

    if found["mean"] is None:
        return "–"
    mean = number(found["mean"], "+" if signed else "")
    return mean if found["low"] is None else f"{mean} [{number(found['low'])}, {number(found['high'])}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gains_by_measure(
    result: Mapping[str, Any], arms: Mapping[str, str], measures: Sequence[str], group: str = "asked"
) -> str:
    """A row for each split and measure, a column for each arm: means over seeds, intervals over seeds."""
    rows = []
    for split, said in SPLIT_NAMES.items():
        for measure in measures:
            found = [result["arms"][arm]["gains"][split][group][measure]["over_seeds"] for arm in arms]
            rows.append([said, MEASURE_NAMES[measure], *(cell(each, measure) for each in found)])
    return table(["prompts", "gain in", *arms.values()], rows)


def gains_by_task(
    result: Mapping[str, Any], arms: Mapping[str, str], measure: str, groups: Sequence[str], original: str = "original"
) -> str:
    """A row for each split and task: the reference, and each arm's gain over seeds."""
    rows = []
    for split, said in SPLIT_NAMES.items():
        for group in groups:
            before = result["reference"][split][group][measure]
            gains = [result["arms"][arm]["gains"][split][group][measure]["over_seeds"] for arm in arms]
            rows.append(
                [
                    said,
                    TASK_NAMES[group],
                    cell(before, measure, signed=False).split(" [")[0],
                    *(cell(each, measure) for each in gains),
                ]
            )
    return table(["prompts", "task", original, *arms.values()], rows)


def gains_by_seed(
    result: Mapping[str, Any],
    arms: Mapping[str, str],
    measures: Sequence[str],
    group: str = "asked",
    split: str = "held_out",
) -> str:
    """A row for each seed and measure: intervals over prompts."""
    rows = []
    for number, seed in enumerate(result["seeds"]):
        for measure in measures:
            found = [result["arms"][arm]["gains"][split][group][measure]["by_seed"] for arm in arms]
            cells = [cell(each[number], measure) if number < len(each) else "–" for each in found]
            rows.append([str(seed), MEASURE_NAMES[measure], *cells])
    return table(["seed", "gain in", *arms.values()], rows)


def budget(result: Mapping[str, Any], arms: Mapping[str, str]) -> str:
    """A row for each arm: what it cost and how far it went."""
    rows = [
        [
            said,
            f"{result['arms'][arm]['queries']:,}",
            f"{result['arms'][arm]['seconds']:.0f}",
            cell(result["arms"][arm]["looks"][-1]["nats"], signed=False),
        ]
        for arm, said in arms.items()
    ]
    return table(["", "reward queries", "seconds of training", "nats to the reference"], rows)


def made_by(result: Mapping[str, Any]) -> str:
    """Command and machine."""
    machine = result["machine"]
    seeds = ", ".join(map(str, result["seeds"]))
    return (
        f"`{result['command']}`, seeds {seeds}; {machine['cpu']}, torch {machine['torch']}, commit "
        f"{machine['commit']}, {machine['at'][:10]}. All trainings together took {result['minutes']:.0f} minutes of "
        "one core, judging among it."
    )
