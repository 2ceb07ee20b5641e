"""The worker process: reads the paths of specs from standard input, runs one stage each, answers with one JSON line.

With a path as its argument it runs that stage and ends: so a launcher (torchrun, accelerate) starts several at once.
"""

import importlib
import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from queue import Queue
from typing import TextIO

import diffusers
import torch
import transformers
from torch import distributed as dist

from data.workspace import disk_errors
from hitl.core.errors import SMALLER_BATCHES, ConfigError, HitlError, WorkerError
from hitl.stages.stage import Desk, Stage

_THREADS = "HITL_THREADS"
_LOST = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
"""What gloo and NCCL say where another process has gone."""
_NICENESS = 10  # the hub answers raters first: a rating never waits for a training step


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    os.nice(_NICENESS)
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(int(os.environ.get(_THREADS, max(cores, 1))))
    torch.set_flush_denormal(True)
    # The ratio of a step's probabilities is 1 only where drawing and learning round alike, whatever the batch.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    diffusers.utils.logging.set_verbosity_error()  # it warns of every LoRA that leaves the text encoder alone
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # the hub shows progress, in one place
    if len(sys.argv) > 1:
        _run_shared(Path(sys.argv[1]))
        return
    orders: Queue[str] = Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    answers = _answers()
    desk = Desk()
    while True:
        answer = _run(Path(orders.get()), desk)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _run_shared(spec: Path) -> None:
    """This process's share of the stage; the first process answers."""
    answers = _answers()
    if "HITL_HUB" in os.environ:
        threading.Thread(target=_listen, args=(Queue(),), daemon=True).start()
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        error = ConfigError(
            "train.launcher started one process that knows of no others.",
            hint="Use `torchrun --nproc-per-node 2 -m`, or give accelerate launch its `--multi_gpu`.",
        )
        answer: dict[str, object] = _expected(error)
    else:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        answer = _run(spec, Desk())
    if os.environ.get("RANK", "0") == "0" or "done" not in answer:  # who failed says so; the launcher stops the others
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if "done" not in answer:
        os._exit(1)
    dist.destroy_process_group()


def _answers() -> TextIO:
    """Where answers go. What anything else prints, in Python or in C, must not pass for one."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = sys.stderr
    return answers


def _listen(orders: "Queue[str]") -> None:
    """Queue each line; when the hub is gone, so is its worker, whatever it was doing."""
    for line in sys.stdin:
        orders.put(line.strip())
    os._exit(0)


def _run(spec: Path, desk: Desk) -> dict[str, object]:
    try:
        stage = Stage.read(spec)
        stage.folder.mkdir(parents=True, exist_ok=True)
        with disk_errors(stage.folder / "result.json"):
            importlib.import_module(f"hitl.stages.{stage.name}").run(stage, desk)
    except HitlError as error:
        return _expected(error)
    except Exception as error:
        if dist.is_initialized() and any(words in str(error) for words in _LOST):
            lost = "Another process of the training died, which ended this one's."
            return _expected(
                WorkerError(lost, hint=f"Run the same command again. If memory was short, {SMALLER_BATCHES}")
            )
        if not _is_out_of_memory(error):
            return {"bug": traceback.format_exc()}
        return {
            "error": WorkerError.__name__,
            "message": f"The worker ran out of memory in {spec.parent.name}.",
            "hint": f"Run the same command again, and {SMALLER_BATCHES}",
        }
    return {"done": True}


def _expected(error: HitlError) -> dict[str, object]:
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no error of its own for it: its allocator and oneDNN, whose buffers are its own, raise a
    # RuntimeError each.
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("DefaultCPUAllocator", "could not create a primitive"))


if __name__ == "__main__":
    main()
