"""Our trainer beside TRL's DDPOTrainer on the starter model: transitions learned from per second, and memory.

    python -m benchmarks.peer_trl --out benchmarks/results/peer_trl.json

TRL 0.23 is the last release that has DDPO. Its environment is made on the first run (some 6 GB, a few minutes), with
our own versions of torch, diffusers, transformers, peft and accelerate: trainers are compared and nothing else. Both do
the same work on the CPU: an epoch draws 64 pictures in 10 steps, scores them by their brightness, and takes one
optimiser step on all 640 transitions, with a LoRA of rank 8. One more row is our default, which trains three steps of
the ten: less work, and named so. TRL gets the batch sizes that are fastest for it here, found by trying; ours are the
defaults, and `train.compile`, whose compiling is before the first epoch and in no time, as is the state that ours saves
after every epoch and TRL does not.

Every measurement is a fresh process; the repeats go through the variants in turn, for a machine that is not quiet.
Figures are medians over all counted epochs of all repeats; every epoch is in the file.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe
from benchmarks.workers import run_worker
from data.prompt_list import starter_prompts

TRL = "trl==0.23.*"
SHARED = ("torch", "diffusers", "transformers", "peft", "accelerate")
"""Taken in our versions. TRL's contemporaries would not do: transformers 4 cannot read the starter's text encoder and
tokenizer, which transformers 5 wrote. TRL 0.23 asks for 4.56.1 or newer, and its DDPO runs on 5 unchanged."""

STARTER = Path(__file__).parents[1] / "rl" / "starter_model"
GROUPS, MEMBERS = 8, 8
WORK: dict[str, Any] = {
    "groups": GROUPS,
    "members": MEMBERS,
    "steps": 10,
    "guidance": 3.0,
    "eta": 1.0,
    "seed": 0,
    "updates": 1,
    "per_prompt_stats": False,
    "learning_rate": 2e-3,
    "lora_rank": 8,
    "lora_targets": ["to_q", "to_k", "to_v", "to_out.0"],
}
_EVERY_STEP = {"window": 10, "shared_noise": False, "compile": False}
OURS: dict[str, dict[str, Any]] = {
    "ddpo_is": {"algorithm": "ddpo_is", "dtype": "float32", **_EVERY_STEP},
    "dpok": {"algorithm": "dpok", "dtype": "float32", **_EVERY_STEP},
    "ddpo_is, bfloat16": {"algorithm": "ddpo_is", "dtype": "bfloat16", **_EVERY_STEP},
    "dpok, bfloat16": {"algorithm": "dpok", "dtype": "bfloat16", **_EVERY_STEP},
    "ddpo_is, bfloat16, compiled": {"algorithm": "ddpo_is", "dtype": "bfloat16", **_EVERY_STEP, "compile": True},
    "dpok, bfloat16, compiled": {"algorithm": "dpok", "dtype": "bfloat16", **_EVERY_STEP, "compile": True},
    "dpok by default (not the same work)": {
        "algorithm": "dpok",
        "dtype": "float32",
        "window": 3,
        "shared_noise": True,
        "compile": False,
    },
}
THEIRS = {"trl": "float32", "trl, bfloat16": "bfloat16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(__file__).parent / ".venv-trl", help="TRL's environment")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each variant")
    parser.add_argument("--epochs", type=int, default=3, help="counted in each process, after one that is not")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64], help="tried for TRL")
    parser.add_argument("--tries", type=int, default=2, help="processes of each pair of batch sizes, in turn")
    parser.add_argument("--only", nargs="+", choices=[*THEIRS, *OURS], default=[*THEIRS, *OURS])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if bad := [size for size in arguments.batch_sizes if size < 1 or GROUPS * MEMBERS % size]:
        parser.error(
            f"--batch-sizes has {bad}, but TRL wants divisors of the {GROUPS * MEMBERS} pictures: use 16 32 64."
        )
    result: dict[str, Any] = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.peer_trl", *sys.argv[1:]]),
        "threads": arguments.threads,
        "work": WORK,
        "trl_batch_sizes": {},
        "runs": {name: [] for name in arguments.only},
        "summary": {},
    }

    def save() -> None:  # after every process: a run that is cut off keeps what it saw
        if arguments.out:
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")

    python = environment(arguments.venv)
    common = {**WORK, "threads": arguments.threads, "prompts": prompts()}
    best: dict[str, dict[str, int]] = {}
    for name in (name for name in arguments.only if name in THEIRS):
        pairs = [  # TRL refuses others
            {"sample_batch_size": sampled, "train_batch_size": trained}
            for sampled, trained in product(arguments.batch_sizes, repeat=2)
            if sampled % trained == 0
        ]
        tried: list[list[dict[str, Any]]] = [[] for _ in pairs]
        for _, (sizes, done) in product(range(arguments.tries), zip(pairs, tried, strict=True)):
            done.append(run_theirs(python, {**common, "epochs": 1, "dtype": THEIRS[name], **sizes}))
            result["trl_packages"] = done[-1].pop("packages")
            found = [{**pair, **summary(runs)} for pair, runs in zip(pairs, tried, strict=True) if runs]
            result["trl_batch_sizes"][name] = found
            print(name, json.dumps(sizes), json.dumps(summary(done)), flush=True)
            save()
        # By the fastest epoch, not the median: what disturbs a machine only ever slows it down.
        fastest = max(result["trl_batch_sizes"][name], key=lambda entry: entry["slowest_and_fastest"][1])
        best[name] = {size: fastest[size] for size in ("sample_batch_size", "train_batch_size")}
    for repeat in range(arguments.repeats):
        for name in arguments.only:
            job = {**common, "epochs": arguments.epochs}
            if name in THEIRS:
                found = run_theirs(python, {**job, "dtype": THEIRS[name], **best[name]})
                del found["packages"]
            else:
                found = run_ours({**job, **OURS[name]})
            result["runs"][name].append(found)
            result["summary"] = summaries(result["runs"], best)
            print(f"{repeat + 1}/{arguments.repeats}", name, json.dumps(result["summary"][name]), flush=True)
            save()


def environment(folder: Path) -> Path:
    """TRL's Python; makes its environment, or mends one that is of other versions or was left half made."""
    wanted = "\n".join([TRL, *(f"{name}=={version(name).partition('+')[0]}" for name in SHARED)]) + "\n"
    python, made = folder / "bin" / "python", folder / "requirements.txt"
    if made.is_file() and made.read_text() == wanted:
        return python
    print(f"Installing TRL into {folder} ...", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted.split()], check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"TRL's environment was not made: {shlex.join(error.cmd)} ended with {error.returncode}. "
            f"Run it by hand to see why; remove {folder} to begin anew."
        ) from error
    made.write_text(wanted)
    return python


def prompts() -> list[str]:
    """Trained-on prompts of all tasks, one for each group of an epoch."""
    found = [prompt.text for prompt in starter_prompts(GROUPS, 1) if prompt.split == "train"]
    return found[:: len(found) // GROUPS][:GROUPS]


def run_theirs(python: Path, job: dict[str, Any]) -> dict[str, Any]:
    return run_worker([str(python), "-m", "benchmarks.peer_trl_worker"], {**job, "model": str(STARTER)})


def run_ours(job: dict[str, Any]) -> dict[str, Any]:
    return run_worker([sys.executable, "-m", "benchmarks.peer_ours_worker"], job)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the counted epochs of these processes."""
    counted = [epoch for run in runs for epoch in run["epochs"][1:]]
    rates = [epoch["transitions"] / _seconds(epoch) for epoch in counted]
    return {
        "transitions": counted[0]["transitions"],
        "images": counted[0]["images"],
        "transitions_per_second": round(median(rates), 2),
        "slowest_and_fastest": [round(min(rates), 2), round(max(rates), 2)],
        "seconds": round(median(map(_seconds, counted)), 3),
        **{
            name: round(median(epoch[name] for epoch in counted), 3)
            for name in ("seconds_collect", "seconds_score", "seconds_update")
        },
        "memory_loaded_mib": median(run["memory_loaded_mib"] for run in runs),
        "memory_peak_mib": median(run["memory_peak_mib"] for run in runs),
    }


def _seconds(epoch: dict[str, float]) -> float:
    return epoch["seconds_collect"] + epoch["seconds_score"] + epoch["seconds_update"]


def summaries(runs: dict[str, list[dict[str, Any]]], best: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Each variant's figures, and how many times those of TRL, in float32 and in the same precision, they are."""
    found = {name: {**best.get(name, {}), **summary(done)} for name, done in runs.items() if done}
    for name, dtype in {**THEIRS, **{name: variant["dtype"] for name, variant in OURS.items()}}.items():
        rivals = [rival for rival in THEIRS if rival != name and (rival == "trl" or THEIRS[rival] == dtype)]
        if name in found:
            found[name]["times"] = {rival: _times(runs[name], runs[rival]) for rival in rivals if runs.get(rival)}
    return found


def _times(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    mine, rival = summary(ours), summary(theirs)
    by_repeat = [
        summary([a])["transitions_per_second"] / summary([b])["transitions_per_second"]
        for a, b in zip(ours, theirs, strict=False)  # while a repeat goes on, one is ahead of the other
    ]
    return {
        "transitions_per_second": round(mine["transitions_per_second"] / rival["transitions_per_second"], 3),
        "by_repeat": [round(ratio, 3) for ratio in by_repeat],
        "epochs_per_second": round(rival["seconds"] / mine["seconds"], 3),
        "memory": round(mine["memory_peak_mib"] / rival["memory_peak_mib"], 3),
    }


if __name__ == "__main__":
    main()
