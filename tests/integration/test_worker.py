"""A real worker process that runs out of real memory."""

import logging
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data.store import Store
from data.workspace import Workspace
from hitl.config import load_config
from hitl.core.errors import WorkerError
from hitl.rounds import Hub, Round, configured_prompts, draw_images
from hitl.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setenv("HITL_THREADS", "1")
    process = Worker()
    yield process
    process.stop()


def pid(worker: Worker) -> int:
    assert worker._process is not None
    return worker._process.pid


def leave_little_memory(worker: Worker) -> None:
    """Enough for small things."""
    pages = int(Path(f"/proc/{pid(worker)}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 32 * 2**20
    resource.prlimit(pid(worker), resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def draw(folder: Path, worker: Worker, ballast: int = 0) -> Workspace:
    """The first stage of a round in a workspace of its own; the worker is handed so many bytes more than it needs."""
    workspace = Workspace(folder)
    settings = ["prompts.per_task=1", "draw.steps=1", "draw.images_per_prompt=2"]
    config = load_config(workspace.config_path, settings)
    with Store.open(workspace, create=True) as store:
        hub = Hub(workspace=workspace, store=store, config=config, worker=worker)
        store.start_round(1, config.sha256)
        prompts = [replace(prompt, task="x" * ballast) for prompt in configured_prompts(hub, config)]
        draw_images(Round(hub=hub, number=1, config=config, prompts=prompts))
        assert len(store.images(1)) == 10
    return workspace


def test_a_worker_that_ran_out_of_memory_is_replaced_by_a_fresh_one(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    draw(tmp_path / "small", worker)  # now it has imported and loaded what it needs
    first = pid(worker)
    leave_little_memory(worker)
    with caplog.at_level(logging.WARNING):
        large = draw(tmp_path / "large", worker, 2**24)
    assert "The worker ran out of memory in draw. Starting another one." in caplog.messages
    second = pid(worker)
    assert second != first
    assert not Path(f"/proc/{first}").exists()  # its memory is free again
    # The hub replaces it once. When that is of no use, the person is told what is.
    leave_little_memory(worker)
    with pytest.raises(WorkerError, match="ran out of memory in draw") as caught:
        worker.run(large.stage_dir(1, "draw") / "spec.json", large.round_dir(1) / "metrics.jsonl", lambda row: None)
    assert "--set draw.batch_size=8" in caught.value.hint
