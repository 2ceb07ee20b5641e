"""THE loop: draw -> rate -> fit -> train -> evaluate -> report. Resumable; wires objects, holds no maths."""

import itertools
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.at_work import Files
from data.blind import is_for_judging, reward_agreement
from data.display_copies import DisplayCopies
from data.erasing import Erasures
from data.prompt_list import read_prompts, starter_prompts
from data.records import FINISHED, Image, Prompt, standing_ratings
from data.round_agreement import round_agreement
from data.store import Store
from data.win_rates import blind_win_rates
from data.workspace import Workspace, write_atomically
from hitl.config import RunConfig, load_config, to_toml
from hitl.core.errors import ConfigError, NotEnoughRatings, RewardAtChance, WorkerError, WorkspaceError, WorsePolicy
from hitl.core.live import Live
from hitl.core.words import counted
from hitl.report import build_report
from hitl.tasks import blind_comparisons, make_tasks, read_uncertainty
from hitl.worker import Worker, read_report, require_launcher

logger = logging.getLogger(__name__)

_QUIET_S = 600.0
"""So long without a rating, and the person who waits is told what they can do; then again after twice as long."""


@dataclass(slots=True)
class Hub:
    """The process that owns the store, and what it works with."""

    workspace: Workspace
    store: Store
    config: RunConfig
    settings: list[str] = field(default_factory=list)
    """What `--set` gave; it holds for a round that is resumed, too."""
    live: Live = field(default_factory=Live)
    worker: Worker = field(default_factory=Worker)
    go_on: threading.Event = field(default_factory=threading.Event)
    """Set: do not wait for more ratings of this round."""
    wait_s: float | None = None
    """Do not wait longer than this for the ratings of one round. None waits for as long as it takes."""
    failure: Exception | None = None
    """Why the simulated raters stopped. Nobody else rates, so the round cannot go on."""
    files: Files = field(init=False)
    """Those of the rounds, which no erasure changes while a stage works with them."""

    def __post_init__(self) -> None:
        self.files = Files(self.workspace)

    @property
    def erasures(self) -> Erasures:
        return Erasures(store=self.store, workspace=self.workspace, write_report=build_report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: its number, and the settings and prompts it began with."""

    hub: Hub
    number: int
    config: RunConfig
    prompts: Sequence[Prompt]

    @property
    def trained_on(self) -> list[Prompt]:
        return [prompt for prompt in self.prompts if prompt.split == "train"]

    @property
    def previous(self) -> int:
        """Number of the round whose policy this one starts from; 0 is the reference."""
        return self.number - 1


Stage = Callable[[Round], dict[str, Any]]


def run_rounds(hub: Hub, count: int) -> list[int]:
    """Complete `count` rounds from here, an unfinished one first and counted. Safe to call again after a crash.

    Returns the numbers of the rounds completed.

    Raises:
        HitlError: a stage cannot go on; everything finished so far is kept.
    """
    first = next_round(hub.workspace)
    for earlier in hub.store.rounds():
        if earlier.number < first:  # a round that was killed between its last stage and its end, and reported by hand
            hub.store.set_round_state(earlier.number, FINISHED)
    for number in range(first, first + count):
        last = first + count - 1
        hub.live.enter("draw", "Getting ready", round=number, rounds=last)
        round = _begin(hub, number)
        advance(round)
        if number < last and round.config.guard.on_stop == "end" and stopped_by_guard(hub.workspace, number):
            hub.live.enter("finished", f"Round {number}'s training was stopped; the rounds after it are not begun")
            return list(range(first, number + 1))
    hub.live.enter("finished", "All rounds are done")
    return list(range(first, first + count))


def guard_says(workspace: Workspace, number: int) -> str:
    """Why the round's training was stopped, or another policy than its last one kept; empty where neither was."""
    return ((workspace.manifest(number, "train") or {}).get("guard") or {}).get("words", "")


def stopped_by_guard(workspace: Workspace, number: int) -> bool:
    """Whether the round's training was ended early, or at its last look would have been."""
    return bool(((workspace.manifest(number, "train") or {}).get("guard") or {}).get("reason"))


def advance(round: Round) -> None:
    """Run the stages of one round that are not done yet."""
    hub = round.hub
    for name, stage in STAGES.items():
        if hub.workspace.is_done(round.number, name):
            continue
        hub.store.set_round_state(round.number, name)
        started = time.monotonic()
        hub.erasures.finish()
        with hub.files.in_use():
            try:
                result = stage(round)
            except (NotEnoughRatings, RewardAtChance) as error:
                _take_more_ratings(round, error.message)
                raise
            # A report of half the round would make the whole one look finished, and be its last.
            (hub.workspace.round_dir(round.number) / "report.html").unlink(missing_ok=True)
            hub.workspace.write_manifest(round.number, name, {"seconds": round_seconds(started), **result})
        if name == "rate":
            _heed_blind_votes(round, result.get("blind", []))
        if name == "fit":
            _renew_last_report(round)
    # The report comes last: a round without one is not finished, so a kill in between loses neither.
    hub.store.set_round_state(round.number, FINISHED)
    hub.live.enter("report", "Writing the report")
    with hub.files.in_use():
        build_report(hub.workspace, round.number)
    hub.erasures.finish()


def draw_images(round: Round) -> dict[str, Any]:
    """The policy draws images of the trained-on prompts; pairs of them become tasks."""
    hub, config = round.hub, round.config
    require_launcher(config.train.launcher)  # before people rate
    prompts = round.trained_on
    hub.live.enter("draw", "Drawing images", total=len(prompts) * config.draw.images_per_prompt)
    result = _work(round, "draw", prompts=[asdict(prompt) for prompt in prompts], checkpoint=_checkpoint(round))
    folder = hub.workspace.stage_dir(round.number, "draw")
    images = []
    for row in result["images"]:
        image_id = hub.workspace.add_image(folder / row["file"])
        provenance = result["provenance"] | {"seed": row["seed"], "index": row["index"]}
        width, height = _size(hub.workspace, image_id)
        images.append(
            Image(
                image_id=image_id,
                prompt_id=row["prompt_id"],
                round=round.number,
                width=width,
                height=height,
                provenance=provenance,
            )
        )
    judged, blind = blind_comparisons(hub.workspace, round.prompts, config, round=round.number)
    hub.store.add_images([*judged, *images])
    if config.rate.display_copies:
        _make_display_copies(hub, [image.image_id for image in [*judged, *images]])
    uncertainty = read_uncertainty(hub.workspace, round.number)
    tasks = make_tasks(images, round.prompts, config, round=round.number, uncertainty=uncertainty, blind=blind)
    hub.store.add_tasks(tasks)
    for row in result["images"]:
        (folder / row["file"]).unlink(missing_ok=True)
    return {"images": len(images), "tasks": sum(task.purpose == "learn" for task in tasks)}


def _make_display_copies(hub: Hub, image_ids: Sequence[str]) -> None:
    """Now, while nobody waits for a page to show them."""
    copies = DisplayCopies(hub.workspace)
    if copies.are_wanted(image_ids):
        hub.live.enter("draw", "Making copies to show", total=len(image_ids))
        for number, image_id in enumerate(image_ids, 1):
            copies.path(image_id)
            hub.live.advance(number, len(image_ids))


def gather_ratings(round: Round) -> dict[str, Any]:
    """Wait until the tasks are rated (or the person says: go on), then freeze all comparisons in a snapshot."""
    hub = round.hub
    hub.go_on.clear()
    if _refusal(round).exists():
        refusal = json.loads(_refusal(round).read_text())
        if round.config.fit.force:
            hub.go_on.set()
        elif (
            len(hub.store.ratings(round.number)) == refusal["ratings"] and hub.store.progress(round.number).is_complete
        ):
            _add_pairs(round, refusal["reason"])
    with hub.files.left():
        hub.erasures.finish()
        _wait_for_ratings(round)
    if hub.failure is not None:
        raise hub.failure
    hub.live.enter("fit", "Freezing the ratings")
    if not hub.store.answers(round.number):
        progress = hub.store.progress(round.number)
        raise NotEnoughRatings(
            f"Round {round.number} has no ratings yet ({progress.skipped} tasks were skipped).",
            hint="Rate some images at the link that `hitl round` prints, then run it again.",
        )
    snapshot = hub.store.write_snapshot(_snapshot_path(round), round.number)
    _refusal(round).unlink(missing_ok=True)
    ratings = standing_ratings(hub.store.ratings(round.number, purpose="learn"))
    raters = {rating.rater_id for rating in ratings}
    ordered = reward_agreement(hub.workspace, hub.store, round.number)
    return {
        "ratings": len(ratings),
        "checks": hub.store.progress(round.number).checks,
        "comparisons": snapshot.comparisons,
        "raters": len(raters),
        "simulated": sum(rater.kind == "simulated" for rater in hub.store.raters() if rater.rater_id in raters),
        "snapshot": snapshot.sha256,
        "agreement": round_agreement(hub.store, round.number),
        "blind": [asdict(each) for each in blind_win_rates(hub.store.judgements(round.number))],
        "reward_agreement": None if ordered is None else ordered.to_dict(),
    }


def _renew_last_report(round: Round) -> None:
    """The report of the round before can say now how people like that round's policy, and its reward model's order."""
    workspace = round.hub.workspace
    if (workspace.round_dir(round.previous) / "report.html").exists():
        with round.hub.files.in_use():
            build_report(workspace, round.previous)


def _heed_blind_votes(round: Round, rates: Sequence[Mapping[str, Any]]) -> None:
    """Go no further from a policy that people clearly like less than another model. Said once, when the ratings are
    complete: whoever runs the round again has decided.

    Raises:
        WorsePolicy: of some model's blind comparisons the interval over prompts ends below half.
    """
    guard = round.config.guard
    if not guard.on or guard.on_stop != "end":
        return
    for each in rates:
        won = each["over_prompts"]
        if won["high"] < 0.5:  # without an interval it is nan
            _renew_last_report(round)
            ends = f"[{100 * won['low']:.0f}, {100 * won['high']:.0f}]"
            raise WorsePolicy(
                f"The {each['model']} was judged worse than the {each['other']}: it won {100 * won['mean']:.0f} % "
                f"{ends} of {counted(won['n'], 'blind vote')} on {counted(won['clusters'], 'held-out prompt')}.",
                hint="Nothing was trained on top of it yet. Look at its pictures and at its report; "
                "`hitl round` goes on from it, and with `--set guard.on_stop=go_on` without asking.",
            )


def _wait_for_ratings(round: Round) -> None:
    """Until the round has its ratings, somebody says `go on`, the time is over, or the raters failed."""
    hub = round.hub
    progress = hub.store.progress(round.number)
    hub.live.enter("rate", "Waiting for ratings", total=progress.needed)
    started = quiet_since = time.monotonic()
    patience, done = _QUIET_S, progress.done
    while not (progress.is_complete or hub.go_on.is_set() or hub.failure is not None):
        now = time.monotonic()
        if hub.wait_s is not None and now > started + hub.wait_s:
            return
        if progress.done != done:
            quiet_since, patience, done = now, _QUIET_S, progress.done
        elif now > quiet_since + patience:
            logger.warning(
                "No rating for %.0f minutes; %d of %d are there. Rate at the link above, press Enter to go on with "
                "what there is, or stop with Ctrl-C and start with --after 30m: nothing is lost.",
                (now - quiet_since) / 60,
                progress.done,
                progress.needed,
            )
            patience *= 2
        hub.live.advance(progress.done, progress.needed)
        time.sleep(0.2)
        progress = hub.store.progress(round.number)


def _take_more_ratings(round: Round, reason: str) -> None:
    """Open the rating again, for a fit that refused what there is; the next run goes on from there."""
    path, ratings = _refusal(round), len(round.hub.store.ratings(round.number))
    if not path.exists() or json.loads(path.read_text())["ratings"] != ratings:  # the first reason is the real one
        write_atomically(path, json.dumps({"reason": reason, "ratings": ratings}).encode())
    round.hub.workspace.reopen(round.number, "rate")


def _add_pairs(round: Round, reason: str) -> None:
    """Make tasks of pairs that nobody was shown yet, as many again as the round began with.

    Raises:
        NotEnoughRatings: every pair was shown.
    """
    store = round.hub.store
    tasks = make_tasks(
        _own_images(round),
        round.prompts,
        round.config,
        round=round.number,
        uncertainty=read_uncertainty(round.hub.workspace, round.number),
        made=store.tasks(round.number),
    )
    if not tasks:
        raise NotEnoughRatings(
            f"Every pair of round {round.number}'s images was shown, and the fit refused the answers: {reason}",
            hint="Train on them regardless with `--set fit.force=true`.",
        )
    count = sum(task.purpose == "learn" for task in tasks)
    logger.warning("The fit needs more ratings: %d more pairs are open.", count)
    store.add_tasks(tasks)


def _refusal(round: Round) -> Path:
    """Says why the fit refused how many ratings; there as long as the round waits for more."""
    return round.hub.workspace.stage_dir(round.number, "rate") / "refused.json"


def fit_reward(round: Round) -> dict[str, Any]:
    """Fit a reward model on all comparisons so far."""
    hub = round.hub
    hub.live.enter("fit", "Learning what people like")
    return _work(round, "fit", drawn=_drawn(round), probe=_probe(round), snapshot=_snapshot(round))


def train_policy(round: Round) -> dict[str, Any]:
    """Train the diffusion model against that reward."""
    hub = round.hub
    hub.live.enter("train", "Training the image model", total=round.config.train.epochs)
    prompts = [asdict(prompt) for prompt in round.trained_on]
    held_out = [asdict(prompt) for prompt in round.prompts if prompt.split == "held_out"]
    for row in _unread_metrics(round, "guard"):
        _keep_metrics(round, row)
    return _work(round, "train", prompts=prompts, held_out=held_out, drawn=_drawn(round), snapshot=_snapshot(round))


def evaluate_policy(round: Round) -> dict[str, Any]:
    """Judge the new policy on held-out and trained-on prompts, beside the reference and its best-of-N."""
    hub = round.hub
    hub.live.enter("evaluate", "Judging the new images", total=4)
    return _work(round, "evaluate", **judged_of(hub.workspace, round.number, round.prompts))


def judged_of(workspace: Workspace, number: int, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What the evaluate stage is told of a round: its prompts, its policy, the one before, and its reward model."""
    return {
        "prompts": [asdict(prompt) for prompt in prompts],
        "policy": str(workspace.policy_dir(number)),
        "previous": str(workspace.policy_dir(number - 1)) if number > 1 else "",
        "reward": str(workspace.reward_dir(number)),
    }


STAGES: dict[str, Stage] = {
    "draw": draw_images,
    "rate": gather_ratings,
    "fit": fit_reward,
    "train": train_policy,
    "evaluate": evaluate_policy,
}


def next_round(workspace: Workspace) -> int:
    """The first round that is not finished."""
    return next(number for number in itertools.count(1) if not is_finished(workspace, number))


def is_finished(workspace: Workspace, number: int) -> bool:
    """A round is finished when its last stage is done and its report is written."""
    return workspace.is_done(number, "evaluate") and (workspace.round_dir(number) / "report.html").exists()


def named_prompts(workspace: Workspace, config: RunConfig) -> list[Prompt]:
    """The prompts that the settings name.

    Raises:
        ConfigError: another model than the starter has no prompts file.
    """
    if config.prompts.file:
        return read_prompts(workspace.root / config.prompts.file, config.prompts.columns, config.prompts.limit)
    if config.model.name == "starter":
        return starter_prompts(config.prompts.per_task, config.prompts.held_out_per_task)
    raise ConfigError(
        f"There are no prompts for the model {config.model.name!r}.",
        hint="Write them into a file, one to a line, and name it: --set prompts.file=prompts.txt",
    )


def configured_prompts(hub: Hub, config: RunConfig) -> list[Prompt]:
    """The same, put into the store where they are new, as the store has them.

    Raises:
        ConfigError: another model than the starter has no prompts file.
    """
    prompts = named_prompts(hub.workspace, config)
    hub.store.add_prompts(prompts)
    known = {prompt.prompt_id: prompt for prompt in hub.store.prompts()}
    return [known[prompt.prompt_id] for prompt in prompts]


def round_seconds(started: float) -> float:
    return round(time.monotonic() - started, 2)


def _begin(hub: Hub, number: int) -> Round:
    """A round with the settings and prompts it began with, and any settings that `--set` gave.

    Until its images are in the store nothing depends on them, so today's settings and prompts hold.
    """
    folder = hub.workspace.round_dir(number)
    config_path, prompts_path = folder / "config.toml", folder / "prompts.json"
    config = hub.config
    if hub.store.images(number):
        config = load_config(config_path, hub.settings)
        if config.sha256 != hub.config.sha256:
            logger.warning(
                "Round %d goes on with the settings it began with and those of --set; hitl.toml holds from the next.",
                number,
            )
        prompts = [Prompt(**row) for row in json.loads(prompts_path.read_text())]
    else:
        prompts = configured_prompts(hub, config)
        rows = json.dumps([asdict(prompt) for prompt in prompts], indent=1).encode()
        before = [path.read_bytes() if path.exists() else b"" for path in (config_path, prompts_path)]
        if before != [to_toml(config).encode(), rows]:
            shutil.rmtree(hub.workspace.stage_dir(number, "draw"), ignore_errors=True)  # drawn with other settings
        write_atomically(prompts_path, rows)
    write_atomically(config_path, to_toml(config).encode())
    hub.store.start_round(number, config.sha256)
    return Round(hub=hub, number=number, config=config, prompts=prompts)


def _work(round: Round, name: str, **inputs: Any) -> dict[str, Any]:
    """Have the worker run a stage; a worker that dies is replaced once, and the stage resumes."""
    hub = round.hub
    folder = hub.workspace.stage_dir(round.number, name)
    inputs["policy_round"] = round.previous
    spec = {
        "stage": name,
        "workspace": str(hub.workspace.root),
        "round": round.number,
        "config": asdict(round.config),
        "inputs": inputs,
    }
    write_atomically(folder / "spec.json", json.dumps(spec).encode())
    metrics = hub.workspace.round_dir(round.number) / "metrics.jsonl"
    launcher = round.config.train.launcher if name == "train" else ""
    for row in _unread_metrics(round, name):
        _keep_metrics(round, row)

    def on_progress(row: dict[str, Any]) -> None:
        hub.live.advance(row["step"], row["total"])
        _keep_metrics(round, row)

    try:
        hub.worker.run(folder / "spec.json", metrics, on_progress, launcher)
    except WorkerError as error:
        logger.warning("%s Starting another one.", error.message)
        hub.worker.stop()
        hub.worker.run(folder / "spec.json", metrics, on_progress, launcher)
    return json.loads((folder / "result.json").read_text())


def _keep_metrics(round: Round, row: dict[str, Any]) -> None:
    if row["metrics"]:
        values = [{"step": row["step"], "name": key, "value": value} for key, value in row["metrics"].items()]
        round.hub.store.add_metrics(round.number, row["stage"], values)


def _unread_metrics(round: Round, name: str) -> list[dict[str, Any]]:
    """What a worker reported of this stage to a hub that was killed before it read it."""
    path = round.hub.workspace.round_dir(round.number) / "metrics.jsonl"
    known = {metric.step for metric in round.hub.store.metrics(round.number, name)}
    latest = {row["step"]: row for row in read_report(path) if row["stage"] == name}
    return [row for step, row in latest.items() if step not in known]


def _snapshot_path(round: Round) -> Path:
    return round.hub.workspace.round_dir(round.number) / "snapshot.parquet"


def _snapshot(round: Round) -> str:
    manifest = round.hub.workspace.manifest(round.number, "rate")
    assert manifest is not None  # stages run in order
    return manifest["snapshot"]


def _drawn(round: Round) -> list[dict[str, str]]:
    """This round's images: their ids, prompts, and the seeds they were drawn from."""
    texts = {prompt.prompt_id: prompt.text for prompt in round.prompts}
    images = sorted(_own_images(round), key=lambda image: (image.image_id, texts[image.prompt_id]))
    return [
        {"image_id": image.image_id, "prompt": texts[image.prompt_id], "seed": image.provenance["seed"]}
        for image in images
    ]


def _own_images(round: Round) -> list[Image]:
    """This round's images that it may learn from."""
    return [image for image in round.hub.store.usable_images(round.number) if not is_for_judging(image)]


def _probe(round: Round) -> list[dict[str, str]]:
    """The first round's images, on which the rewards of all rounds can be compared."""
    store = round.hub.store
    texts = {prompt.prompt_id: prompt.text for prompt in store.prompts()}
    return [
        {"image_id": image.image_id, "prompt": texts[image.prompt_id]}
        for image in store.usable_images(1)
        if not is_for_judging(image)
    ]


def _checkpoint(round: Round) -> str:
    """Hash of the policy that draws: the last round's; empty for the reference."""
    if not round.previous:
        return ""
    manifest = round.hub.workspace.manifest(round.previous, "train")
    if manifest is None:
        raise WorkspaceError(
            f"Round {round.previous} has no trained policy, but round {round.number} starts from it.",
            hint=f"Restore rounds/{round.previous:04d}/train from a backup.",
        )
    return manifest["checkpoint"]


def _size(workspace: Workspace, image_id: str) -> tuple[int, int]:
    """Width and height, from the PNG's header."""
    header = workspace.image_path(image_id).read_bytes()[16:24]
    return int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
