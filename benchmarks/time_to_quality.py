"""Time to quality: what it costs our trainer and TRL's DDPOTrainer to raise a reward by one standard deviation.

    python -m benchmarks.time_to_quality --threads 1 --out benchmarks/results/time_to_quality.json

Both train the starter on the CPU, in float32, on the same 8 prompts, with epochs of 64 pictures in 10 steps and a LoRA
of rank 8. Rewards, the same functions for both: the mean brightness, the size of a JPEG file (larger is better), and
the simulated raters' taste. TRL 0.23 and its environment are those of `benchmarks.peer_trl`. Its bfloat16 is left out:
that changes what an epoch costs, which is measured there, and not how many it takes.

One yardstick for both: before the first epoch and after each, the clock stands still and the policy draws pictures of
the prompts, from the same starts on both sides and without noise in the steps, as a report does. The goal is the mean
of the reference's plus one standard deviation of theirs. The pictures that a trainer learns from would not do: TRL's
have noise in ten steps, ours in three, so that the two begin at different means; and ours start eight at a time from
one latent, so that the mean of an epoch's is noisier and would pass the goal by luck sooner.

Each side has a sweep of settings, TRL's the larger, of `--sweep` processor seconds each, on a seed of its own. The
fastest to the goal, or else the one that rose most, goes on to other seeds and `--cap` processor seconds; so does our
default, which nobody tuned but for its epoch: 64 pictures, half of ours by default. Processor seconds are what is
compared and what caps count: a shared machine's clock measures its other users too. Seconds by the clock and pictures
learned from stand beside them, and how correct the verifier finds the judged pictures when the goal is reached: no
reward here asks for what the prompt says, and a leap that leaves it behind is a rise all the same. A run that does not
get there within the cap counts with what it had spent; if that is the median, a share of it is an upper bound, and
named so.

Every run is kept in --out as it ends, and a call goes on from what is there.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import scipy

from benchmarks.machine import describe
from benchmarks.peer_trl import OURS, STARTER, WORK, environment, prompts
from benchmarks.workers import variables
from data.workspace import write_atomically
from rl.config import TrainConfig

DEFAULT = {"learning_rate": TrainConfig().learning_rate}
TARGET = 0.25
"""Of TRL's seconds, that ours may take."""
REWARDS = ("brightness", "jpeg_size", "taste")
SIDES: dict[str, dict[str, Any]] = {
    "trl": {"dtype": "float32", "sample_batch_size": 32, "train_batch_size": 16},
    "ours": OURS["dpok by default (not the same work)"],
}
"""Side -> what its runs have in common beside the work."""
SWEEP: dict[str, list[dict[str, Any]]] = {
    "trl": [
        {"learning_rate": 2e-3, "updates": 4, "per_prompt_stats": True},
        {"learning_rate": 8e-3, "updates": 4, "per_prompt_stats": True},
        {"learning_rate": 1.6e-2, "updates": 4, "per_prompt_stats": True},
        {"learning_rate": 3.2e-2, "updates": 4, "per_prompt_stats": True},
        {"learning_rate": 1.6e-2, "updates": 1, "per_prompt_stats": True},
        {"learning_rate": 1.6e-2, "updates": 4, "per_prompt_stats": False},
        {"learning_rate": 6.4e-2, "updates": 4, "per_prompt_stats": True},
        {"learning_rate": 3.2e-2, "updates": 1, "per_prompt_stats": True},
    ],
    "ours": [
        DEFAULT,
        {"learning_rate": 2e-3},
        {"learning_rate": 8e-3},
        {"learning_rate": 1.6e-2},
        {"learning_rate": 3.2e-2},
        {"learning_rate": 6.4e-2},
    ],
}
"""Side -> settings that are tried: learning rates, optimiser steps an epoch, and whether TRL keeps each prompt's mean.
Ours begin with the default."""
SWEEP_SEED = 0
MEASURES = ("cpu_seconds", "seconds", "images")
CORRECTNESS = ("correctness", "correctness_of_reference")
"""The verifier's mean score of the judged pictures, when a run was there, and before it began."""

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(__file__).parent / ".venv-trl", help="TRL's environment")
    parser.add_argument("--only", nargs="+", choices=REWARDS, default=REWARDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help=f"the sweep's is {SWEEP_SEED}")
    parser.add_argument("--sweep", type=float, default=60, help="processor seconds of training for each setting tried")
    parser.add_argument("--cap", type=float, default=300, help="processor seconds of training for each seed")
    parser.add_argument("--judged", type=int, default=32, help="pictures that judge a policy")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    python = environment(arguments.venv)
    work = {
        **WORK,
        "threads": arguments.threads,
        "judged": arguments.judged,
        "gold": "correctness",
        "prompts": prompts(),
    }
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"work": work, "runs": []}
    if found["work"] != work:
        parser.error(f"{arguments.out} holds runs of other work or threads: name another file, or remove it.")
    result: dict[str, Any] = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.time_to_quality", *sys.argv[1:]]).replace(
            str(arguments.venv), "benchmarks/.venv-trl"
        ),
        "work": work,
        "sides": SIDES,
        "sweep": SWEEP,
        "target": TARGET,
        "summary": {},
        "runs": found["runs"],
    }

    def run(side: str, reward: str, settings: dict[str, Any], seed: int, cap: float) -> Run:
        named = {"side": side, "reward": reward, "settings": settings, "seed": seed, "cap": cap}
        for done in result["runs"]:
            if all(done[key] == value for key, value in named.items()):
                return done
        job = {**work, "reward": reward, "side": side, **SIDES[side], **settings, "seed": seed}
        done = {**named, **train(python if side == "trl" else Path(sys.executable), job, cap)}
        print(json.dumps({**named, **outcome(done)}), flush=True)
        result["runs"].append(done)
        save()
        return done

    def save() -> None:
        result["summary"] = summaries(result["runs"], arguments.seeds, arguments.sweep, arguments.cap)
        write_atomically(arguments.out, (json.dumps(result, indent=2) + "\n").encode())

    for reward in arguments.only:
        for side, sweep in SWEEP.items():
            for settings in sweep:
                run(side, reward, settings, SWEEP_SEED, arguments.sweep)
        chosen = variants([run for run in result["runs"] if run["reward"] == reward], arguments.sweep)
        for seed, (side, settings) in product(arguments.seeds, chosen.values()):
            run(side, reward, settings, seed, arguments.cap)
    save()  # of runs that were all there already, too
    print(json.dumps(result["summary"], indent=2))


def train(python: Path, job: dict[str, Any], cap: float) -> dict[str, Any]:
    """A worker's curve, until the goal or the cap."""
    curve: list[dict[str, float]] = []
    with TemporaryDirectory() as folder, TemporaryFile("w+") as errors:
        told = {**job, "model": str(STARTER), "folder": folder, "packages": [str(Path(scipy.__file__).parents[1])]}
        command = [str(python), "-m", "benchmarks.time_to_quality_worker", json.dumps(told)]
        with subprocess.Popen(
            command, env=variables(job["threads"]), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as worker:
            assert worker.stdout is not None
            try:
                for line in worker.stdout:
                    curve.append(json.loads(line))
                    if is_reached(curve) or curve[-1]["cpu_seconds"] >= cap:
                        return {"curve": curve}
            finally:
                worker.kill()
        errors.seek(0)
        said = errors.read().strip()
    if "TrainingError" not in said:  # which a learning rate that is too large can end in
        raise SystemExit(f"{shlex.join(command)} ended with {worker.returncode}; it said last:\n{said[-3000:]}")
    return {"curve": curve, "failed": said.splitlines()[-1]}


def rise(curve: list[dict[str, float]]) -> float:
    """Of the mean since the reference, in standard deviations of the reference's pictures."""
    return (curve[-1]["mean"] - curve[0]["mean"]) / curve[0]["std"]


def is_reached(curve: list[dict[str, float]]) -> bool:
    return rise(curve) >= 1


def outcome(run: Run) -> dict[str, Any]:
    """What a run had spent at its end, be that the goal or not."""
    last = run["curve"][-1]
    return {
        "seed": run["seed"],
        "reached": is_reached(run["curve"]),
        "rise": round(rise(run["curve"]), 3),
        "correctness": last["correctness"],
        "correctness_of_reference": run["curve"][0]["correctness"],
        **{measure: last[measure] for measure in MEASURES},
    }


def variants(runs: list[Run], sweep: float) -> dict[str, tuple[str, dict[str, Any]]]:
    """Variant -> its side and settings: the default, and of each side the best of its sweep on one reward."""

    def rank(run: Run) -> tuple[float, float]:
        return (run["curve"][-1]["cpu_seconds"] if is_reached(run["curve"]) else math.inf, -rise(run["curve"]))

    found: dict[str, tuple[str, dict[str, Any]]] = {"ours by default": ("ours", DEFAULT)}
    for side in SIDES:
        tried = [run for run in runs if (run["side"], run["seed"], run["cap"]) == (side, SWEEP_SEED, sweep)]
        if tried:
            found[side] = (side, min(tried, key=rank)["settings"])
    return found


def summaries(runs: list[Run], seeds: list[int], sweep: float, cap: float) -> dict[str, Any]:
    by_reward = {reward: [run for run in runs if run["reward"] == reward] for reward in REWARDS}
    return {reward: summary(found, seeds, sweep, cap) for reward, found in by_reward.items() if found}


def summary(runs: list[Run], seeds: list[int], sweep: float, cap: float) -> dict[str, Any]:
    """Of one reward: each variant's outcomes, and what share of TRL's median ours is."""
    found: dict[str, dict[str, Any]] = {}
    for name, (side, settings) in variants(runs, sweep).items():
        wanted = [(side, settings, seed, cap) for seed in seeds]
        outcomes = [outcome(run) for run in runs if (run["side"], run["settings"], run["seed"], run["cap"]) in wanted]
        if outcomes:
            found[name] = {
                "settings": settings,
                "reached": f"{sum(each['reached'] for each in outcomes)} of {len(outcomes)}",
                **{measure: round(median(each[measure] for each in outcomes), 1) for measure in MEASURES},
                **{name: round(median(each[name] for each in outcomes), 3) for name in CORRECTNESS},
                "by_seed": outcomes,
            }
    for name in ("ours", "ours by default"):
        if name in found and "trl" in found:
            found[name]["share_of_trl"] = share(found[name], found["trl"])
    return found


def share(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Of medians. Who did not get there has spent its cap, and would have needed more."""
    if not has_median(mine["by_seed"]):
        return {"is": "unknown: most of ours did not get there within the cap"}
    shares = {measure: round(mine[measure] / theirs[measure], 3) for measure in MEASURES}
    known = "equal to" if has_median(theirs["by_seed"]) else "at most"
    return {"is": known, **shares, "meets_target": shares["cpu_seconds"] <= TARGET}


def has_median(outcomes: list[dict[str, Any]]) -> bool:
    return sum(each["reached"] for each in outcomes) > len(outcomes) / 2


if __name__ == "__main__":
    main()
