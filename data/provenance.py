"""Where an image, a rating or a model comes from: the chain back to prompts, raters and the reference model.

Read from the store and from what each stage left in its round's folder. A chain is plain JSON values. What is not known
stands under `unknown`, in a sentence: nothing is inferred.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.checkpoints import sha256_of_weights
from data.records import Image, Rating, Task, standing_ratings
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import UnknownName

Facts = dict[str, Any]

FITTED = "clip_head"
"""The name of the reward that is fitted on the ratings, among those that a policy is trained against."""
_DRAWN_WITH = ("seed", "sampler", "steps", "guidance", "checkpoint", "model", "revision", "versions")
"""What every image that is drawn here is recorded with."""
_TRAINED_WITH = ("model", "revision", "algorithm", "snapshot", "began_from", "versions")


def pseudonyms(store: Store) -> dict[str, str]:
    """Raters by number, in the order in which they joined."""
    return {rater.rater_id: f"rater-{number:03d}" for number, rater in enumerate(store.raters(), 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What one workspace can tell. Knows nothing of how it is printed."""

    store: Store
    workspace: Workspace
    raters: Mapping[str, str]
    """What each rater is called, by their id."""

    # -- what people saw and said ---------------------------------------------------------------------------------

    def image(self, image_id: str) -> Facts:
        """How it was first drawn, what was said of it, and the policy that drew it.

        Raises:
            UnknownName: there is no such image.
        """
        image = self.store.image(image_id)
        if image is None:
            raise _unknown("image", image_id)
        tasks = self.store.tasks_showing(image_id)
        lost = [each.reason for each in self.store.withdrawn_images() if each.image_id == image_id]
        _, wrong = self.workspace.read_image(image_id)
        unknown = [f"Its file {wrong}."] if wrong else []
        return {
            "kind": "image",
            **asdict(image),
            "file": self._name(self.workspace.image_path(image_id)),
            "prompt": self._prompt(image.prompt_id),
            "withdrawn": lost[0] if lost else None,
            "tasks": [task.task_id for task in tasks],
            "ratings": self._said(tasks),
            "drawn_by": self._drawn_by(image),
            "unknown": unknown + _missing(image.provenance, _DRAWN_WITH, "how it was drawn"),
        }

    def rating(self, rating_id: str) -> Facts:
        """All that was recorded of it, the task with its images as they were shown, and the snapshots that hold it.

        Raises:
            UnknownName: there is no such rating.
        """
        rating = self.store.rating(rating_id)
        task = self.store.task(rating.task_id) if rating else None
        if rating is None or task is None:
            raise _unknown("rating", rating_id)
        beside = self.store.ratings_of([task.task_id])
        facts = asdict(rating) | {"server_time": rating.server_time.isoformat(), "kind": "rating"}
        del facts["rater_id"]
        return {
            **facts,
            "rating_kind": rating.kind,
            "rater": self._rater(rating.rater_id),
            "stands": rating in standing_ratings(beside),
            "voided_by": next((each.rating_id for each in beside if each.voids == rating_id), None),
            "task": self._task(task),
            "images": self._images(rating.image_ids),
            "snapshots": [number for number in self._rounds_from(task.round) if self._holds(number, rating)],
            "drawn_by": self._drawn_by(self.store.image(task.image_ids[0])),
            "unknown": [],
        }

    def task(self, task_id: str) -> Facts:
        """What was asked, with what probability it was chosen, and what was said.

        Raises:
            UnknownName: there is no such task.
        """
        task = self.store.task(task_id)
        if task is None:
            raise _unknown("task", task_id)
        return {
            **self._task(task),
            "images": self._images(task.image_ids),
            "ratings": self._said([task]),
            "drawn_by": self._drawn_by(self.store.image(task.image_ids[0])),
            "unknown": [],
        }

    # -- what was made of it --------------------------------------------------------------------------------------

    def checkpoint(self, number: int) -> Facts:
        """The policy of a round: what it was trained on and against, back to the reference."""
        folder = self.workspace.policy_dir(number)
        facts: Facts = {"kind": "checkpoint", "round": number, "folder": self._name(folder)}
        manifest = self.workspace.manifest(number, "train")
        if manifest is None:
            return facts | {"unknown": [f"Round {number} is not trained, or its folder is gone."]}
        origin = manifest.get("origin") or _read_json(folder / "policy.json")
        reward = self.reward(number) if FITTED in origin.get("rewards", [FITTED]) else None
        before = self.workspace.manifest(number - 1, "train") if number > 1 else None
        unknown = _missing(origin, _TRAINED_WITH, "how it was trained")
        if before and origin.get("began_from", before.get("checkpoint")) != before.get("checkpoint"):
            unknown.append(f"It began from other weights than those that round {number - 1} holds today.")
        return facts | {
            "checkpoint": manifest.get("checkpoint"),
            "origin": origin,
            "epochs": manifest.get("epochs"),
            "images": manifest.get("images"),
            "reward": reward,
            "snapshot": None if reward else self.snapshot(number),
            "began_from": self.checkpoint(number - 1) if number > 1 else _reference(origin),
            "unknown": unknown,
        }

    def checkpoint_in(self, folder: Path) -> Facts:
        """The policy in a folder, wherever that was copied to: known by its weights.

        Raises:
            UnknownName: no round of this workspace has these weights.
        """
        found = sha256_of_weights(folder)
        for number in self._rounds_from(1):
            if (self.workspace.manifest(number, "train") or {}).get("checkpoint") == found:
                return self.checkpoint(number)
        told = _read_json(folder / "policy.json")
        made = f" It says that it was made by round {told['round']} of a workspace." if "round" in told else ""
        raise UnknownName(
            f"No round of {self.workspace.root} trained the weights in {folder}.{made}",
            hint="Name the workspace that they are from with -w.",
        )

    def reward(self, number: int) -> Facts:
        """The reward model of a round and the answers that it was fitted on."""
        folder = self.workspace.reward_dir(number)
        manifest = self.workspace.manifest(number, "fit")
        facts: Facts = {"kind": "reward", "round": number, "folder": self._name(folder)}
        if manifest is None:
            return facts | {"unknown": [f"Round {number} has no fitted reward model, or its folder is gone."]}
        return facts | self._fitted(manifest) | {"snapshot": self.snapshot(number)}

    def reward_in(self, folder: Path) -> Facts:
        """A reward model that `hitl fit` made: the folder with its `fit.json`.

        Raises:
            UnknownName: there is no reward model in it.
        """
        place = folder if (folder / "fit.json").exists() else folder / "reward"
        report = _read_json(place / "fit.json")
        if not report:
            raise UnknownName(f"There is no reward model in {folder}.", hint="Name the folder that holds fit.json.")
        found = {"report": report, "reward": sha256_of_weights(place)}
        answers = self._answers(place.parent / "snapshot.parquet", report.get("snapshot_sha", ""))
        erased = {"erasures": report.get("erasures", [])}
        return (
            {"kind": "reward", "round": None, "folder": self._name(place)}
            | self._fitted(found)
            | {"snapshot": answers | erased}
        )

    def snapshot(self, number: int) -> Facts:
        """The answers that a round learned from: how many, whose, and to which prompts."""
        manifest = self.workspace.manifest(number, "rate") or {}
        answers = self._answers(self.workspace.round_dir(number) / "snapshot.parquet", manifest.get("snapshot", ""))
        return answers | {"round": number, "erasures": manifest.get("erasures", [])}

    def _fitted(self, found: Facts) -> Facts:
        report = found.get("report", {})
        keys = ("head", "backbone", "pretrained", "fingerprint", "accuracy", "comparisons", "prompts", "raters")
        return {
            "reward": found.get("reward"),
            "snapshot_sha": report.get("snapshot_sha"),
            "fit": {key: report.get(key) for key in keys},
            "versions": found.get("versions"),
            "unknown": _missing(found, ("reward",), "what its weights hash to"),
        }

    def _answers(self, path: Path, sha256: str) -> Facts:
        import pyarrow as pa  # here, where an answer is read: the command line must not wait for it
        import pyarrow.parquet as pq

        facts: Facts = {"sha256": sha256 or None, "file": self._name(path)}
        try:
            content = path.read_bytes()
            table = pq.read_table(pa.BufferReader(content), columns=["rater_id", "prompt"])
        except (OSError, pa.ArrowException) as error:
            return facts | {"unknown": [f"{facts['file']} cannot be read: {error}."]}
        raters, prompts = (
            {row["values"]: row["counts"] for row in table[column].value_counts().to_pylist()}
            for column in ("rater_id", "prompt")
        )
        is_other = sha256 and hashlib.sha256(content).hexdigest() != sha256
        return facts | {
            "comparisons": table.num_rows,
            "raters": {self._rater(rater): count for rater, count in sorted(raters.items(), key=self._place)},
            "prompts": prompts,
            "unknown": [f"{facts['file']} is not the file that the round learned from: its hash differs."]
            * bool(is_other),
        }

    # -- parts ----------------------------------------------------------------------------------------------------

    def _drawn_by(self, image: Image | None) -> Facts:
        """The policy that drew it, with what its image says of it."""
        if image is None or "policy_round" not in image.provenance:
            return {"kind": "unknown", "unknown": ["It is not recorded what drew it: it was not drawn here."]}
        number = image.provenance["policy_round"]
        if not number:
            return _reference(image.provenance)
        facts = self.checkpoint(number)
        said, now = image.provenance.get("checkpoint"), facts.get("checkpoint")
        if said and now and said != now:
            facts["unknown"] = [*facts["unknown"], f"It was drawn by weights {said}, but round {number} holds others."]
        return facts

    def _said(self, tasks: Sequence[Task]) -> list[Facts]:
        ratings = self.store.ratings_of([task.task_id for task in tasks])
        standing = {rating.rating_id for rating in standing_ratings(ratings)}
        return [
            {
                "rating_id": rating.rating_id,
                "task_id": rating.task_id,
                "rater": self._rater(rating.rater_id),
                "payload": rating.payload,
                "server_time": rating.server_time.isoformat(),
                "stands": rating.rating_id in standing,
            }
            for rating in ratings
        ]

    def _task(self, task: Task) -> Facts:
        told = {"kind": "task", "rating_kind": task.kind, "prompt": self._prompt(task.prompt_id)}
        return asdict(task) | told

    def _images(self, image_ids: Sequence[str]) -> list[Facts]:
        found = [self.store.image(image_id) for image_id in image_ids]
        return [
            {"image_id": image.image_id, "round": image.round, "seed": image.provenance.get("seed")}
            for image in found
            if image is not None
        ]

    def _prompt(self, prompt_id: str) -> Facts:
        return next((asdict(each) for each in self.store.prompts() if each.prompt_id == prompt_id), {})

    def _rater(self, rater_id: str) -> str:
        return self.raters.get(rater_id, "somebody whom the store does not know")

    def _place(self, counted: tuple[str, int]) -> int:
        return list(self.raters).index(counted[0]) if counted[0] in self.raters else len(self.raters)

    def _rounds_from(self, first: int) -> Iterator[int]:
        folders = (self.workspace.root / "rounds").glob("[0-9]*")
        yield from sorted(int(path.name) for path in folders if path.name.isdigit() and int(path.name) >= first)

    def _holds(self, number: int, rating: Rating) -> bool:
        """Whether a round's snapshot holds this rater's answer to the task. One that stands no more is in none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.workspace.round_dir(number) / "snapshot.parquet"
        mine = [("task_id", "=", rating.task_id), ("rater_id", "=", rating.rater_id)]
        try:
            return path.exists() and pq.read_table(path, columns=["task_id"], filters=mine).num_rows > 0
        except (OSError, pa.ArrowException):
            return False

    def _name(self, path: Path) -> str:
        """Within the workspace, where it is there."""
        return str(path.relative_to(self.workspace.root)) if path.is_relative_to(self.workspace.root) else str(path)


def _reference(found: Mapping[str, Any]) -> Facts:
    return {
        "kind": "reference",
        "model": found.get("model"),
        "revision": found.get("revision"),
        "unknown": _missing(found, ("model", "revision"), "which model it is"),
    }


def _missing(found: Mapping[str, Any], wanted: Sequence[str], what: str) -> list[str]:
    """One sentence for all that is not there: it was made before that was recorded."""
    absent = [name for name in wanted if found.get(name) is None]
    return [f"Of {what}, this is not recorded: {', '.join(absent)}."] if absent else []


def _read_json(path: Path) -> Facts:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _unknown(kind: str, found: str) -> UnknownName:
    return UnknownName(
        f"There is no {kind} {found!r} in the store.", hint="`hitl show` takes the first letters of an id."
    )
