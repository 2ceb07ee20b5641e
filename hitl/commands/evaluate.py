"""`hitl evaluate`: judge a policy beside the reference and its best-of-N, outside any round."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.at_work import Files
from data.checkpoints import sha256_of_weights
from data.evaluation import POLICY, PREVIOUS, read_scores
from data.prompt_list import read_prompts
from data.records import Prompt
from data.workspace import Workspace, write_atomically
from hitl.commands.apart import new_folder, run_apart
from hitl.config import RunConfig, load_config
from hitl.core.errors import WorkspaceError
from hitl.report import words
from hitl.report.files import RoundFiles
from hitl.report.judgement import Judged, judge_round
from hitl.report.page import plain
from hitl.rounds import judged_of

RESULT = "evaluation.json"


def run(
    number: int,
    policy: Path | None,
    prompts: Path | None,
    reward: Path | None,
    out: Path | None,
    workspace: Path | None,
    settings: list[str],
    as_json: bool,
) -> None:
    folder = Workspace.find(workspace)
    number = number or _last_trained(folder)
    if policy is None and not folder.is_done(number, "train"):
        raise WorkspaceError(
            f"Round {number} has no trained policy." if number else f"No round of {folder.root} has trained a policy.",
            hint=f"Finish one with `hitl round -w {folder.root}`, or name a checkpoint with --policy FOLDER.",
        )
    own = folder.round_dir(number) / "config.toml"
    config = load_config(own if own.exists() else folder.config_path, settings)
    inputs = judged_of(folder, number, _prompts(folder, number, prompts, config))
    if policy is not None:
        inputs |= {POLICY: str(_folder(policy, "policy")), PREVIOUS: ""}
    if reward is not None:
        inputs["reward"] = str(_folder(reward, "reward model"))
    elif not Path(inputs["reward"]).exists():
        inputs["reward"] = ""
    place = new_folder(out) if out else folder.root / "evaluations" / _name(config, inputs)
    with Files(folder).in_use():
        result = run_apart("evaluate", folder, config, place, round=number, inputs=inputs, doing="Judging")
        write_atomically(place / RESULT, f"{json.dumps(result, indent=2)}\n".encode())
    files = _files(place, number, result)
    judged = judge_round(files)
    if as_json:
        print(json.dumps(plain({"path": str(place), "summary": result["summary"], "judges": result["judges"]})))
        return
    name = "this policy" if policy is not None else f"round {number}"
    print("\n\n".join(table(name, split, found, files.best_of) for split, found in judged.items()))
    if not inputs["reward"]:
        print("\nThere is no reward model, so no learned reward and no best of N: name one with --reward FOLDER.")
    print(f"\nPictures and scores: {place}")


def table(name: str, split: str, found: Sequence[Judged], best_of: int | None) -> str:
    """What every judge says on one split, as lines of text."""
    clusters, n = max((each.gain.clusters, each.gain.n) for each in found)
    header = ["", "reference", name, f"best of {best_of}" if best_of else "", "gain over the reference"]
    rows = [header]
    for each in found:
        levels = [
            words.level(each.measure, None if level is None else level.mean)
            for level in (each.reference, each.policy, each.best)
        ]
        gain = f"{words.ruler(each).with_interval(each.gain)}, {words.CHANGES[each.change]}"
        rows.append([each.measure.name, *levels[: 2 + bool(best_of)], *([] if best_of else [""]), gain])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width).rstrip() for row in rows
    ]
    title = f"{words.SPLITS.get(split, split)}: {words.count(clusters, 'prompt')}, {words.count(n, 'picture')} a model"
    return "\n".join([title, *lines])


def _last_trained(folder: Workspace) -> int:
    rounds = [int(path.name) for path in folder.root.glob("rounds/[0-9]*") if path.is_dir()]
    return max((number for number in rounds if folder.is_done(number, "train")), default=0)


def _prompts(folder: Workspace, number: int, given: Path | None, config: RunConfig) -> list[Prompt]:
    if given is not None:
        return read_prompts(given, config.prompts.columns, config.prompts.limit)
    path = folder.round_dir(number) / "prompts.json"
    if not path.exists():
        raise WorkspaceError(
            f"{folder.root} has no round whose prompts could be judged on.", hint="Name a file with --prompts FILE."
        )
    return [Prompt(**row) for row in json.loads(path.read_text())]


def _folder(given: Path, what: str) -> Path:
    if not given.is_dir():
        raise WorkspaceError(
            f"There is no folder {given} with a {what}.",
            hint="Name one that `hitl round` or `hitl fit` wrote, such as rounds/0001/train/policy.",
        )
    return given.absolute()


def _name(config: RunConfig, inputs: Mapping[str, Any]) -> str:
    """By what is judged and how, so that the same question has one answer."""
    told = {name: sha256_of_weights(Path(inputs[name])) if inputs[name] else "" for name in (POLICY, "reward")}
    asked = [told, inputs["prompts"], asdict(config.evaluate), asdict(config.model), asdict(config.sample)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _files(place: Path, number: int, result: dict[str, Any]) -> RoundFiles:
    return RoundFiles(
        number=number,
        manifests={"evaluate": result},
        config="",
        metrics=(),
        times=None,
        provenance={},
        scores=tuple(read_scores(place / "scores.parquet")),
        grid=None,
        missing=(),
    )
