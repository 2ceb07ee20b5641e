"""DPOK on Stable Diffusion 1.5 and XL at their published size, with random weights, on a GPU: speed and memory.

    python -m benchmarks.gpu --out benchmarks/results/gpu.json
    python -m benchmarks.gpu --out benchmarks/results/gpu.json --only sd15-512-plain sdxl-1024-checkpointing

Speed and memory depend on shapes, not on what the weights say, so nothing is downloaded. A case is a model, a size of
pictures, and with or without gradient checkpointing and torch.compile; it runs in a process of its own: batch 1, then
twice as many again and again until memory runs out. An epoch is one batch of images (of two where the batch is 1) at
the default 10 steps with guidance, and three transitions of each. The frozen weights are bfloat16.

- `peak_gib` is what torch had allocated at most. `fits_target`: at batch 1 the epochs were run under the target as a
  limit, less what the driver and the libraries took outside of torch (`outside_gib`).
- `compile_gain`: share of the time that compiled blocks saved in the trainer's own trial; where it was 0, they were not
  kept, and the figures are those of the case without.
- `images_per_second` is of drawing, `transitions_per_second` of learning.
- The share of the chip's rate: floating-point operations of an epoch without checkpointing, as torch counts them, over
  the rate of a large bfloat16 matrix product, measured before and after, and over the time. What checkpointing computes
  again counts as no use.

What --out holds is not measured again, batch by batch. `--smallest` runs the same code on the CPU with networks of a
few channels, to see that it runs; its figures mean nothing.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from benchmarks.machine import describe, differences

TARGETS: dict[str, dict[str, Any]] = {"sd15": {"pixels": 512, "gib": 8}, "sdxl": {"pixels": 1024, "gib": 16}}
"""The size of pictures that a model was made for, and the memory that batch 1 of it should fit."""
TARGET_SHARE = 0.35
VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {"checkpointing": False, "compile": False},
    "checkpointing": {"checkpointing": True, "compile": False},
    "compile": {"checkpointing": False, "compile": True},
    "both": {"checkpointing": True, "compile": True},
}
_PLACES = (("sd15", 512), ("sdxl", 1024), ("sd15", 1024), ("sdxl", 512))
CASES: dict[str, dict[str, Any]] = {
    f"{model}-{pixels}-{name}": {"model": model, "pixels": pixels, **variant}
    for (model, pixels), (name, variant) in product(_PLACES, VARIANTS.items())
}
WORK: dict[str, Any] = {
    "steps": 10,
    "window": 3,
    "sides": (4096, 8192),  # of the square matrices whose products are timed
    "seconds_of_product": 0.5,
}
SMALLEST: dict[str, Any] = {"pixels": 64, "steps": 2, "window": 1, "sides": (128,), "seconds_of_product": 0.02}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help="of " + ", ".join(CASES)
    )
    parser.add_argument("--largest", type=int, default=64, help="batch size that is tried")
    parser.add_argument("--epochs", type=int, default=2, help="timed, for each batch size, after one that is not")
    parser.add_argument("--smallest", action="store_true", help="tiny networks on the CPU")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not arguments.smallest and not torch.cuda.is_available():
        raise SystemExit(
            "This measures a CUDA device, and there is none here. `--smallest` runs the same code on the CPU, to see "
            "that it runs."
        )
    machine = describe()
    result: dict[str, Any] = {"cases": {}, "flops": {}}
    if arguments.out and arguments.out.exists():
        result = json.loads(arguments.out.read_text())
        if different := differences(result["machine"], machine):
            raise SystemExit(f"{arguments.out} was measured with {different}: give --out another file.")
        if result["smallest"] != arguments.smallest:
            raise SystemExit(f"{arguments.out} was measured {'with' if result['smallest'] else 'without'} --smallest.")
    result = {
        "machine": machine,
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "smallest": arguments.smallest,
        "work": SMALLEST if arguments.smallest else WORK,
        "targets": {**{model: target["gib"] for model, target in TARGETS.items()}, "share_of_rate": TARGET_SHARE},
        "flops": result["flops"],
        "cases": result["cases"],
    }

    def save() -> None:  # after every batch size: a run that is cut off keeps what it saw
        if arguments.out:
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")

    for name in arguments.only:
        measure(name, arguments, result, save)
        save()
    print(table(result))


def measure(name: str, arguments: argparse.Namespace, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Fill in the batch sizes of a case that are not known yet."""
    case, target = CASES[name], TARGETS[CASES[name]["model"]]
    found = result["cases"].setdefault(name, {"batches": {}})
    first = 2 * max(map(int, found["batches"]), default=0) or 1
    if first > arguments.largest or any("out_of_memory" in batch for batch in found["batches"].values()):
        return
    found.pop("failed", None)
    job = {
        **case,
        **WORK,
        "device": "cuda",
        "smallest": arguments.smallest,
        "target_gib": target["gib"] if case["pixels"] == target["pixels"] else None,
        "epochs": arguments.epochs,
        "first": first,
        "largest": arguments.largest,
        "count": False,
    }
    if arguments.smallest:
        job |= {**SMALLEST, "device": "cpu"}
    place = f"{case['model']}-{case['pixels']}"
    if place not in result["flops"]:
        for line in _worker({**job, **VARIANTS["plain"], "count": True}):
            if "failed" in line:
                print(place, "Operations are not counted:", line["failed"], flush=True)
            else:
                result["flops"][place] = line
    for line in _worker(job):
        if "failed" in line:
            found["failed"] = line["failed"]
            print(name, "failed:", line["failed"], flush=True)
            return
        batch = str(line.pop("batch"))
        found["batches"][batch] = line
        if place in result["flops"] and "out_of_memory" not in line:
            line |= shares(line, result["flops"][place])
        print(name, batch, json.dumps(line), flush=True)
        save()


def shares(found: Mapping[str, Any], flops: Mapping[str, int]) -> dict[str, float]:
    """Of the chip's rate, of an epoch and of its parts."""
    rate = found["matmul_tflops_per_second"] * 1e12
    done = {
        "collect": found["images"] * flops["flops_of_image"],
        "update": found["transitions"] * flops["flops_of_transition"],
    }
    seconds = {phase: found[f"seconds_{phase}"] for phase in done}
    return {
        "share_of_rate": round(sum(done.values()) / rate / sum(seconds.values()), 4),
        **{f"share_of_rate_{phase}": round(done[phase] / rate / seconds[phase], 4) for phase in done},
    }


def _worker(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a process says of this job, as it says it; where it ends badly, why."""
    command = [sys.executable, "-m", "benchmarks.gpu_worker", json.dumps(job)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with TemporaryFile("w+") as said:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
        if process.returncode:
            said.seek(0)
            last = said.read().strip().splitlines()[-1:] or ["nothing"]
            yield {"failed": f"It ended with {process.returncode} and said last: {last[0]}"}


# -- the table -------------------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> str:
    """Markdown: a row for batch 1 and one for the largest that ran, of each case."""
    head = "case", "batch", "peak GiB", "fits", "images/s", "transitions/s", "share of the bf16 rate"
    lines = [_row(head), _row(["---"] * len(head))]
    for name, case in result["cases"].items():
        ran = {int(batch): found for batch, found in case["batches"].items() if "out_of_memory" not in found}
        if not ran:
            why = case.get("failed") or "Batch 1 does not fit this device."
            lines.append(_row([name, "–", why, *[""] * 4]))
            continue
        for batch in sorted({min(ran), max(ran)}):
            found, target = ran[batch], result["targets"][CASES[name]["model"]]
            fits = {True: f"{target} GiB", False: f"not {target} GiB", None: ""}[found.get("fits_target")]
            share = found.get("share_of_rate")
            lines.append(
                _row(
                    [
                        name,
                        batch,
                        found.get("peak_gib", "–"),
                        fits,
                        found["images_per_second"],
                        found["transitions_per_second"],
                        "–" if share is None else f"{100 * share:.1f} %",
                    ]
                )
            )
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
