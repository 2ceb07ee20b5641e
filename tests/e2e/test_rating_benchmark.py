"""The benchmark of the rating app: that it runs, and that what it counts as lost or doubled is so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import rating
from benchmarks.rating_hub import make_workspace
from data.store import Store
from tests.facts import a_rater, a_rating

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(900)
def test_each_part_says_what_it_measured_and_nothing_was_lost(tmp_path: Path):
    """In a process of its own, for it drives browsers too."""
    out, figure = tmp_path / "rating.json", tmp_path / "crowd.png"
    command = ["--small", "--no-training", "--out", str(out), "--figure", str(figure)]
    subprocess.run([sys.executable, "-m", "benchmarks.rating", *command], cwd=ROOT, check=True)
    found = json.loads(out.read_text())
    page, durable, keys, crowd = (found[part] for part in ("page", "durable", "keys", "crowd"))
    assert page["key_to_paint"]["count"] == rating.SMALL["pairs"]
    assert page["next_pair_after_it_is_due"]["count"] >= rating.SMALL["pairs"] - 1
    assert page["baseline_gradio_event"]["count"] == rating.SMALL["pairs"]
    assert keys["keys"] == rating.SMALL["pages"] * rating.SMALL["ratings"]
    for part in (durable["at_rest"], keys, crowd):
        assert (part["lost"], part["doubled"]) == (0, 0)
    assert durable["at_rest"]["ratings"] == durable["at_rest"]["durable"]["count"] > 0
    assert crowd["steps"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert all("machine" in found[part] for part in rating.PARTS)


def test_a_rating_that_is_not_there_or_twice_there_or_another_is_counted(tmp_path: Path):
    """Of Ann's keys one has no rating; of Bob's one has two, and one says something else."""
    workspace = make_workspace(tmp_path, tasks=6, pictures=4, pixels=8, overlap=2)
    with Store.open(workspace) as store:
        tasks = store.tasks()
        for name, choices in (("ann", ["left", "tie"]), ("bob", ["left", "left", "right", "tie"])):
            store.add_rater(a_rater(name))
            for task, choice in zip(tasks, choices, strict=False):
                store.add_rating(a_rating(task, name, choice))
    pressed = {"Ann": ["left", "tie", "tie"], "Bob": ["left", "tie", "right"]}
    assert rating._what_became(workspace, pressed) == (1, 1, 1)


def test_quantiles_are_those_of_the_times():
    """Of 1, 2, …, 101 the median is 51, and 95 of 100 steps lead to 96."""
    assert rating.quantiles([float(n) for n in range(1, 102)]) == {
        "count": 101,
        "p50_ms": 51.0,
        "p95_ms": 96.0,
        "largest_ms": 101.0,
    }
