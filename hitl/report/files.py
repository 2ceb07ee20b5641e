"""Reads what a round left in its folder, as far as it is there: half a round still gives a report."""

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.bootstrap import Interval
from data.evaluation import POLICY, REFERENCE, ImageScore, over_prompts, read_scores, summarise
from data.workspace import STAGES, Workspace
from hitl.core.errors import WorkspaceError

_MISSING_STAGE = {
    "draw": "nothing is known about the images it drew",
    "rate": "nothing is known about its ratings",
    "fit": "its reward model has no page",
    "train": "its policy has no hash",
    "evaluate": "it is not judged",
}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pictures of the reference and the policy from the same seeds, in the same order."""

    reference: np.ndarray
    policy: np.ndarray
    prompts: tuple[str, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RoundFiles:
    """Everything one round's folder says. Absent files are empty values, and `missing` names them."""

    number: int
    manifests: dict[str, dict[str, Any]]
    config: str
    """The text of `config.toml`."""
    metrics: tuple[dict[str, Any], ...]
    """Rows of `metrics.jsonl`; of a step that was run again after a crash, the last."""
    times: tuple[float, float] | None
    """Unix time of the first and the last line of `metrics.jsonl`."""
    provenance: dict[str, Any]
    """How the round's images were drawn: model, sampler, versions."""
    scores: tuple[ImageScore, ...]
    grid: Grid | None
    missing: tuple[str, ...]
    has_policy: bool = False
    """Whether the weights that it trained are there."""

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `data.evaluation.summarise` made of the scores; empty for a round that is not judged."""
        return self.manifests.get("evaluate", {}).get("summary") or (summarise(self.scores) if self.scores else {})

    @cached_property
    def splits(self) -> list[str]:
        """The splits it was judged on, the held-out one first: only that tells learning from memory."""
        return sorted(self.summary.get("gains", {}), key=lambda split: (split != "held_out", split != "train", split))

    @cached_property
    def first_verdicts(self) -> dict[tuple[str, str], bool]:
        """Whether the first image of a subject and prompt, which is the one in the grid, is exactly right."""
        return {
            (score.subject, score.prompt): score.values["exact"] >= 0.5
            for score in self.scores
            if score.index == 0 and not score.subject.startswith("best_of_") and "exact" in score.values
        }

    @property
    def judges(self) -> dict[str, dict[str, Any]]:
        """The rewards that judged it beside the learned one, and whether it was trained on them."""
        return self.manifests.get("evaluate", {}).get("judges") or {}

    @property
    def fit(self) -> dict[str, Any]:
        return self.manifests.get("fit", {}).get("report") or {}

    @property
    def guard(self) -> dict[str, Any]:
        """What `hitl.stages.guard` saw and did; empty where there was none, and in rounds of older versions."""
        return self.manifests.get("train", {}).get("guard") or {}

    @property
    def agreement(self) -> dict[str, Any]:
        """What `data.round_agreement` said of the raters; empty where an older version rated."""
        return self.manifests.get("rate", {}).get("agreement") or {}

    def stage_metrics(self, stage: str) -> list[dict[str, Any]]:
        return [row for row in self.metrics if row.get("stage") == stage]

    def pictures(self, subject: str, split: str) -> list[ImageScore]:
        """The scores of a subject's pictures that the policy and the reference drew too, of one prompt and seed; of
        best-of-N all. The reference often has more pictures of a prompt than the policy: those would make levels that
        do not differ by the gain.
        """
        keys = {
            name: {(s.prompt_id, s.index) for s in self.scores if (s.subject, s.split) == (name, split)}
            for name in (REFERENCE, POLICY)
        }
        pairs = keys[REFERENCE] & keys[POLICY]
        return [
            score
            for score in self.scores
            if (score.subject, score.split) == (subject, split)
            and (subject.startswith("best_of_") or (score.prompt_id, score.index) in pairs)
        ]

    def subject(self, name: str, split: str, measure: str, task: str | None = None) -> Interval | None:
        """The mean of one subject (`reference`, `previous`, `policy`, `best_of_N`) on a split, or on one task of it:
        of the pictures that the gain is of. None where it is known of other pictures only.
        """
        found = interval(_of_task(self.summary.get("subjects", {}).get(name, {}).get(split, {}), task).get(measure))
        gain = self.gain(split, measure, task)
        if found is None or gain is None or found.n == gain.n or name.startswith("best_of_"):
            return found
        values = [
            (score.values[measure], score.prompt_id)
            for score in self.pictures(name, split)
            if measure in score.values and task in (None, score.task)
        ]
        return over_prompts(values) if values else None

    def gain(self, split: str, measure: str, task: str | None = None) -> Interval | None:
        """Policy minus reference, on the same prompts and seeds."""
        return interval(_of_task(self.summary.get("gains", {}).get(split, {}), task).get(measure))

    def since_previous(self, split: str, measure: str) -> Interval | None:
        """Policy minus the policy that the round started from, in the same way."""
        return interval(_of_task(self.summary.get("since_previous", {}).get(split, {}), None).get(measure))

    def tasks(self, split: str) -> list[str]:
        """Tasks with anything to show on that split, in the order of the prompts."""
        found = self.summary.get("gains", {}).get(split, {}).get("tasks", {})
        order = {task: place for place, task in enumerate(dict.fromkeys(score.task for score in self.scores))}
        return sorted((task for task, measures in found.items() if measures), key=lambda task: order.get(task, 0))

    @property
    def best_of(self) -> int | None:
        """The N of best-of-N; None when it was not judged."""
        names = [name for name in self.summary.get("subjects", {}) if name.startswith("best_of_")]
        return int(names[0].removeprefix("best_of_")) if names else None


def _of_task(found: dict[str, Any], task: str | None) -> dict[str, Any]:
    return found.get("all", {}) if task is None else found.get("tasks", {}).get(task, {})


def interval(found: dict[str, Any] | None) -> Interval | None:
    """An interval as a manifest holds it; None where there is none."""
    if not found or found.get("mean") is None:
        return None
    nan = float("nan")
    low, high = (nan if found.get(end) is None else float(found[end]) for end in ("low", "high"))
    return Interval(float(found["mean"]), low, high, int(found.get("n", 0)), int(found.get("clusters", 0)))


def read_rounds(workspace: Workspace, number: int) -> list[RoundFiles]:
    """The rounds 1 to `number` that are there, the last one included in any state.

    Raises:
        WorkspaceError: the last one has no folder at all.
    """
    if not workspace.round_dir(number).is_dir():
        last = max((int(path.name) for path in workspace.root.glob("rounds/[0-9]*") if path.is_dir()), default=0)
        raise WorkspaceError(
            f"There is no round {number} in {workspace.root.name}.",
            hint=f"The last round is {last}." if last else "Run the first one with `hitl round --n 1`.",
        )
    earlier = [n for n in range(1, number) if workspace.round_dir(n).is_dir()]
    return [read_round(workspace, n) for n in [*earlier, number]]


def later_manifests(workspace: Workspace, number: int) -> dict[str, dict[str, Any]]:
    """What the round after has of this round's policy: the manifests of its ratings and their fit, as far as done."""
    found = {}
    for stage in ("rate", "fit"):
        try:
            found[stage] = workspace.manifest(number + 1, stage)
        except WorkspaceError:
            continue
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def read_round(workspace: Workspace, number: int) -> RoundFiles:
    """One round; whatever cannot be read is named in `missing`."""
    folder = workspace.round_dir(number)
    missing: list[str] = []
    manifests: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        try:
            manifest = workspace.manifest(number, stage)
        except WorkspaceError as error:
            missing.append(error.message)
            continue
        if manifest is None:
            missing.append(f"The {stage} stage of round {number} is not finished: {_MISSING_STAGE[stage]}.")
        else:
            manifests[stage] = manifest
    metrics, times = _read_metrics(folder / "metrics.jsonl")
    scores, grid = (), None
    if "evaluate" in manifests:
        try:
            scores = tuple(read_scores(folder / "evaluate" / "scores.parquet"))
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
            missing.append(
                f"Round {number} has no readable evaluate/scores.parquet: best-of-N is compared without pairs."
            )
        try:
            grid = _read_grid(folder / "evaluate" / "grid.npz")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            missing.append(f"Round {number} has no readable evaluate/grid.npz: its pictures are not shown.")
    return RoundFiles(
        number=number,
        manifests=manifests,
        config=_read_text(folder / "config.toml"),
        metrics=metrics,
        times=times,
        provenance=_read_provenance(folder, manifests),
        scores=scores,
        grid=grid,
        has_policy=any((folder / "train" / "policy").rglob("*.safetensors")),
        missing=tuple(missing),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_metrics(path: Path) -> tuple[tuple[dict[str, Any], ...], tuple[float, float] | None]:
    """Rows in order of their steps, and when the file began and ended. A torn last line is skipped."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    times = []
    for line in _read_text(path).splitlines():
        try:
            row = json.loads(line)
            key = (str(row["stage"]), int(row["step"]))
        except (ValueError, KeyError, TypeError):
            continue
        rows[key] = row
        if isinstance(row.get("time"), int | float):
            times.append(float(row["time"]))
    ordered = tuple(rows[key] for key in sorted(rows))
    return ordered, (min(times), max(times)) if times else None


def _read_provenance(folder: Path, manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found = manifests.get("draw", {}).get("provenance")
    if found is None:
        try:
            found = json.loads((folder / "draw" / "result.json").read_text(encoding="utf-8")).get("provenance")
        except (OSError, ValueError, AttributeError):
            found = None
    return found if isinstance(found, dict) else {}


def _read_grid(path: Path) -> Grid:
    with np.load(path) as arrays:
        reference, policy = arrays["reference"], arrays["policy"]
        prompts, splits = (tuple(str(text) for text in arrays[name]) for name in ("prompts", "splits"))
    if not len(reference) == len(policy) == len(prompts) == len(splits):
        raise ValueError("the arrays of the grid differ in length")
    return Grid(reference=reference, policy=policy, prompts=prompts, splits=splits)
