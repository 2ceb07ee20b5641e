"""One training on the starter, judged as it goes: saved after every epoch, so that a killed run is gone on with."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.papers.guarded import GuardLooks
from benchmarks.papers.judging import (
    nats,
    pictures_of,
    reference_images,
    rewards_judged_by,
    save_images,
    scores_of,
)
from benchmarks.papers.plan import RatedTraining, Training
from benchmarks.papers.rating_rounds import reward_of_round
from benchmarks.papers.rewards import reward_of
from data.prompt_list import starter_prompts
from data.workspace import write_atomically
from hitl.core.errors import TrainingError
from rl.algorithms.contract import Preference
from rl.algorithms.make import make_algorithm
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.families.loading import load_family
from rl.preferences import Comparisons, Traces
from rl.rollout import trace
from rl.train import Reward, train, train_on_comparisons


def results(runs: Iterable[Training], work: Path, *, device: str = "cpu", processes: int = 1) -> dict[str, Any]:
    """What came of each training, by its key. Those that are finished already are read, not run again.

    A result is a JSON object: `epochs` (seconds of training so far, metrics), `looks` (epoch, queries, seconds, nats to
    the reference, scores of each judged image, and the guard's look where it looks), `guard_start` (its look at the
    reference), `seconds_in_all` with judging, `finished`, and `failed` where training could not go on.
    """
    wanted = {run.key: run for run in runs}
    missing = [run for run in wanted.values() if not progress_of(run, work)["finished"]]
    if processes == 1 or not missing:
        for run in missing:
            complete(run, work, device)
    else:
        complete_reference(missing, work, device)  # what runs share is made once
        context = get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for done in [pool.submit(complete, run, work, device) for run in missing]:
                done.result()
    return {key: progress_of(run, work) for key, run in wanted.items()}


def progress_of(run: Training, work: Path) -> dict[str, Any]:
    path = folder_of(run, work) / "progress.json"
    if path.exists():
        return json.loads(path.read_text())
    return {"training": asdict(run), "epochs": [], "looks": [], "seconds_in_all": 0.0, "finished": False}


def folder_of(run: Training, work: Path) -> Path:
    return work / "runs" / run.key


def reference_scores(run: Training, work: Path, device: str = "cpu") -> dict[str, list[float]]:
    """Of the reference's judged images, by the run's reward and by gold."""
    family = family_of(run.dtype, device)
    rewards = rewards_judged_by(reward_of(run.reward, run.ratings, family, work), family)
    images = reference_images(family, run.judged, work)
    return {name: values.tolist() for name, values in scores_of(images, run.judged, rewards).items()}


def complete_reference(runs: Iterable[Training], work: Path, device: str) -> None:
    for run in runs:
        family = family_of(run.dtype, device)
        reward_of(run.reward, run.ratings, family, work)
        reference_images(family, run.judged, work)


@functools.cache
def family_of(dtype: str, device: str) -> Family:
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)  # runs stand beside each other instead
    return load_family("starter", device=device, dtype=getattr(torch, dtype))


def complete(run: Training, work: Path, device: str = "cpu") -> None:
    """Train to the end, from the last finished epoch on."""
    family, folder, progress = family_of(run.dtype, device), folder_of(run, work), progress_of(run, work)
    # A shared machine's clock measures its other users too; a GPU's work is not the processor's.
    clock = time.process_time if device == "cpu" else time.monotonic
    begun = clock()
    algorithm = make_algorithm(run.algorithm, run.settings)
    reward, sample = reward_of(run.reward, run.ratings, family, work), SampleConfig()
    rewards = rewards_judged_by(reward, family)
    prompts = [prompt for prompt in starter_prompts(run.prompts_per_task, 0) if prompt.task in run.tasks]
    guard = GuardLooks.of(family, reward, work) if run.guard_looks else None
    if guard is not None and "guard_start" not in progress:
        progress["guard_start"] = guard.start()
    mark = clock()

    def write() -> None:
        nonlocal begun
        progress["seconds_in_all"] += clock() - begun
        begun = clock()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "progress.json", json.dumps(progress).encode())

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal mark
        epochs = progress["epochs"] = progress["epochs"][: epoch - 1]  # a kill between telling and saving repeats one
        looks = progress["looks"] = [look for look in progress["looks"] if look["epoch"] < epoch]
        before = epochs[-1]["seconds"] if epochs else 0.0
        epochs.append({"epoch": epoch, "seconds": round(before + clock() - mark, 2), **_rounded(metrics)})
        if epoch % run.look_every == 0 or epoch == run.epochs:
            images = pictures_of(family, run.judged)
            scores = scores_of(images, run.judged, rewards)
            seen = {} if guard is None else {"guard": guard.take(epoch)}
            looks.append(
                {
                    "epoch": epoch,
                    "queries": run.queries // run.epochs * epoch,
                    "seconds": epochs[-1]["seconds"],
                    "nats": round(nats(family, run.judged, sample), 4),
                    "scores": {name: [round(each, 5) for each in values.tolist()] for name, values in scores.items()},
                    **seen,
                }
            )
            if epoch == run.epochs:
                save_images(folder / "images.npz", images.numpy())
        write()
        mark = clock()

    config = TrainConfig(
        algorithm=run.algorithm,
        epochs=run.epochs,
        prompts_per_epoch=run.prompts_per_epoch,
        images_per_prompt=run.images_per_prompt,
        updates_per_epoch=run.updates_per_epoch,
        noises_per_image=run.noises_per_image,
        learning_rate=run.learning_rate,
    )
    texts, tasks = [prompt.text for prompt in prompts], [prompt.task for prompt in prompts]
    common: dict[str, Any] = {"folder": folder / "policy", "place": ("papers", run.seed), "on_epoch": on_epoch}
    try:
        if isinstance(run, RatedTraining):
            _train_in_rounds(run, family, folder, texts, tasks, config, sample, on_epoch)
        elif isinstance(algorithm, Preference):
            compared, traces = comparisons(run, family, reward, texts, sample)
            train_on_comparisons(family, algorithm, compared, traces, config, sample, **common)
        else:
            train(family, algorithm, reward, texts, config, sample, tasks=tasks, **common)
    except TrainingError as error:
        progress["failed"] = error.message
    progress["finished"] = True
    write()
    with contextlib.suppress(FileNotFoundError):
        (folder / "policy" / "state.pt").unlink()  # nothing goes on from here


def _train_in_rounds(
    run: RatedTraining,
    family: Family,
    folder: Path,
    texts: Sequence[str],
    tasks: Sequence[str],
    config: TrainConfig,
    sample: SampleConfig,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> None:
    algorithm = make_algorithm(run.algorithm, run.settings)
    assert not isinstance(algorithm, Preference)
    each = run.epochs // run.rounds
    before: Path | None = None
    for number in range(1, run.rounds + 1):
        policy = folder / f"policy-{number}"
        if not (policy / "pytorch_lora_weights.safetensors").exists():  # written last
            family.drop_policy()
            if before is not None:
                family.load_policy(before)
            train(
                family,
                algorithm,
                reward_of_round(run, number, texts, family, folder),
                texts,
                replace(config, epochs=each),
                sample,
                folder=policy,
                place=("papers", run.seed, number),
                tasks=tasks,
                start_from=before,
                on_epoch=lambda epoch, metrics, done=each * (number - 1): on_epoch(done + epoch, metrics),
            )
        before = policy


def comparisons(
    run: Training, family: Family, reward: Reward, texts: Sequence[str], sample: SampleConfig
) -> tuple[Comparisons, Traces]:
    """As many of the reference's images as other algorithms draw, each compared once: the reward says which is better,
    so that all are told the same by the same judge."""
    pairs = run.queries // 2
    rng = np.random.default_rng([run.seed, 2])
    visits = [int(each) for _ in range(-(-pairs // len(texts))) for each in rng.permutation(len(texts))]
    prompts = [texts[each] for each in visits[:pairs] for _ in range(2)]
    seeds = [("papers", run.seed, "compared", i) for i in range(2 * pairs)]
    schedule = family.process.schedule(sample.steps, eta=sample.eta, window=sample.window)
    family.drop_policy()
    drawn = trace(family, prompts, schedule, guidance=sample.guidance, seeds=seeds, batch_size=sample.batch_size)
    first, second = reward(drawn.images, prompts).reshape(-1, 2).unbind(1)
    every = torch.arange(2 * pairs)
    return (
        Comparisons(
            images=drawn.images,
            prompts=prompts,
            first=every[::2],
            second=every[1::2],
            outcome=torch.sign(first - second).int(),
        ),
        Traces(states=drawn.states, schedule=drawn.schedule, guidance=sample.guidance),
    )


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in metrics.items()}
