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

import diffusers
import torch
import transformers
from torch import distributed as dist

from data.workspace import disk_errors
from hitl.core.errors import SMALLER_BATCHES, HitlError, WorkerError
from hitl.stages.stage import Desk, Stage

_THREADS = "HITL_THREADS"
_NICENESS = 5  # the hub answers raters first: a rating never waits for a training step


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    os.nice(_NICENESS)
    torch.set_num_threads(int(os.environ.get(_THREADS, os.cpu_count() or 1)))
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
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # what a library prints must not pass for an answer
    desk = Desk()
    while True:
        answer = _run(Path(orders.get()), desk)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _run_shared(spec: Path) -> None:
    """This process's share of the stage; the first process answers."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr
    if "HITL_HUB" in os.environ:
        threading.Thread(target=_listen, args=(Queue(),), daemon=True).start()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    answer = _run(spec, Desk())
    if not dist.get_rank() or "done" not in answer:  # who failed says so; the others are stopped by the launcher
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if "done" not in answer:
        os._exit(1)
    dist.destroy_process_group()


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
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except Exception as error:
        if not _is_out_of_memory(error):
            return {"bug": traceback.format_exc()}
        return {
            "error": WorkerError.__name__,
            "message": f"The worker ran out of memory in {spec.parent.name}.",
            "hint": f"Run the same command again, and {SMALLER_BATCHES}",
        }
    return {"done": True}


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no error of its own for it: its allocator and oneDNN, whose buffers are its own, raise a
    # RuntimeError each.
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("DefaultCPUAllocator", "could not create a primitive"))


if __name__ == "__main__":
    main()
