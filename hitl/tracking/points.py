"""What is logged, from a workspace's files: training by epoch over all rounds, judgements and costs by round."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data.workspace import STAGES, Workspace
from hitl.worker import read_report


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Values that belong together. The same point has the same key, however often the files are read."""

    key: str
    axis: str
    """`epoch`, counted over all rounds from 1, or `round`."""
    at: int
    values: Mapping[str, float]


def points(workspace: Workspace, known: Collection[str] = ()) -> Iterator[Point]:
    """All that the rounds' files say by now and is not `known`, in the order in which it happened."""
    epochs = 0
    for number in itertools.count(1):
        if not workspace.round_dir(number).is_dir():
            return
        manifests = {stage: workspace.manifest(number, stage) for stage in STAGES}
        rows = read_report(workspace.round_dir(number) / "metrics.jsonl")
        found: list[Point] = []
        for stage in ("train", "guard"):
            # Of a step that was run again after a crash, the last; it comes out the same. A guard's first look is at
            # the policy of the last round's end, where every gain is 0.
            by_step = {row["step"]: row["metrics"] for row in rows if row["stage"] == stage and row["metrics"]}
            found += [_epoch(number, stage, epochs, step, by_step[step]) for step in sorted(by_step) if step]
        found.sort(key=lambda point: point.at)
        for stage, manifest in manifests.items():
            if manifest is not None:
                found.append(_cost(number, stage, manifest))
        found += [make(number, manifest) for make, manifest in _findings(manifests) if manifest is not None]
        yield from (point for point in found if point.values and point.key not in known)
        # A guard may have stopped it before its last epoch.
        epochs = max([epochs, *(point.at for point in found if point.axis == "epoch")])


def _findings(manifests: Mapping[str, Any]) -> list[tuple[Any, dict[str, Any] | None]]:
    return [(_fit, manifests["fit"]), (_judgement, manifests["evaluate"])]


def _epoch(number: int, stage: str, before: int, step: int, metrics: Mapping[str, Any]) -> Point:
    """What training reports of an epoch, or its guard saw after it."""
    values = _finite({f"{stage}/{name}": value for name, value in metrics.items()})
    return Point(key=f"{number}/{stage}/{step}", axis="epoch", at=before + step, values=values)


def _cost(number: int, stage: str, manifest: Mapping[str, Any]) -> Point:
    counts = {
        "rate": ("ratings", "comparisons", "raters"),
        "draw": ("images",),
        "train": ("images",),
    }.get(stage, ())
    names = {"draw": {"images": "drawn"}, "train": {"images": "reward_queries"}}.get(stage, {})
    values = {f"cost/{names.get(name, name)}": manifest.get(name) for name in counts}
    values[f"cost/seconds_{stage}"] = manifest.get("seconds")
    return Point(key=f"{number}/cost/{stage}", axis="round", at=number, values=_finite(values))


def _fit(number: int, manifest: Mapping[str, Any]) -> Point:
    """How often the reward model is right on comparisons held out from it."""
    values = _interval("fit/accuracy", (manifest.get("report") or {}).get("accuracy"))
    return Point(key=f"{number}/fit", axis="round", at=number, values=values)


def _judgement(number: int, manifest: Mapping[str, Any]) -> Point:
    """Means of every subject, and the policy's gains over the reference, on each split."""
    summary = manifest.get("summary") or {}
    values: dict[str, float] = {}
    for subject, splits in summary.get("subjects", {}).items():
        for split, found in splits.items():
            for measure, mean in found.get("all", {}).items():
                values |= _interval(f"evaluate/{split}/{measure}/{subject}", mean)
    for split, found in summary.get("gains", {}).items():
        for measure, gain in found.get("all", {}).items():
            values |= _interval(f"evaluate/{split}/{measure}/gain", gain)
    return Point(key=f"{number}/evaluate", axis="round", at=number, values=values)


def _interval(name: str, found: Mapping[str, Any] | None) -> dict[str, float]:
    """A mean and the ends of its 95 % interval, where there are any."""
    found = found or {}
    return _finite({name: found.get("mean"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")})


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
    }
