"""`hitl agreement` by its command line: over a crowd, in the store and through a hub, and where little is known."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.crowd import COIN, LEFT, TURNED, Crowd, crowd
from data.records import Image, Prompt, Task
from data.store import Store
from data.workspace import Workspace
from hitl.commands.hub import running_hub
from tests.command import Hitl, run_hitl
from tests.facts import a_rater, a_rating, a_task, fill, image_id

pytestmark = pytest.mark.long


@pytest.fixture
def hitl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hitl:
    """Runs a command in a new workspace: exit code, stdout and stderr."""
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path))

    run = partial(run_hitl, capsys, monkeypatch)

    assert run("init")[0] == 0
    return run


def rate_two_models(folder: Path) -> None:
    """Ten raters, five of whom are odd; four images of each of 20 prompts, two by the reference and two by a policy."""
    prompts = [Prompt.of(f"prompt {number}") for number in range(20)]
    images, tasks = [], []
    for prompt in prompts:
        ids = [image_id(f"{prompt.text}/{n}") for n in range(4)]
        images += [
            Image(
                image_id=each,
                prompt_id=prompt.prompt_id,
                round=1,
                width=64,
                height=64,
                provenance={"policy_round": n // 2},
            )
            for n, each in enumerate(ids)
        ]
        tasks += [
            Task(
                task_id=f"{prompt.prompt_id}-{one}{other}",
                round=1,
                kind="pairwise",
                prompt_id=prompt.prompt_id,
                image_ids=(ids[one], ids[other]),
                overlap=5,
            )
            for one, other in ((0, 1), (0, 2), (1, 3), (2, 3))
        ]
    with Store.open(Workspace(folder)) as store:
        people = Crowd(store, crowd(10))
        asked = people.add_tasks(1, prompts, images, tasks, checks=8)
        people.rate(asked, begin=datetime.now(UTC) - timedelta(hours=2), hours=1.9)


@pytest.mark.parametrize("place", ["the store", "a hub"])
def test_all_figures_of_a_crowd(hitl: Hitl, tmp_path: Path, place: str):
    rate_two_models(tmp_path)
    if place == "the store":
        code, out, _ = hitl("agreement", "--json", "--names")
    else:
        with running_hub(None, ["server.port=0"], create=False):
            code, out, _ = hitl("agreement", "--json", "--names")
    told: dict[str, Any] = json.loads(out)
    assert (code, told["round"]) == (0, None)
    assert 0 < told["alpha"]["Pairs"]["low"] < told["alpha"]["Pairs"]["alpha"] < told["alpha"]["Pairs"]["high"] < 1
    assert told["kappa"]["Pairs"]["raters"] == 5
    assert told["kappa"]["Pairs"]["kappa"] == pytest.approx(told["alpha"]["Pairs"]["alpha"], abs=0.01)
    assert 0.5 < told["ceiling"]["agreement"]["mean"] < 1
    assert told["consistency"]["clusters"] == 10
    by_name = {each["rater"]: each for each in told["raters"]}
    assert by_name[TURNED]["reliability"] < -2 * by_name[TURNED]["reliability_se"]
    assert abs(by_name[COIN]["reliability"]) < 3 * by_name[COIN]["reliability_se"]
    assert by_name[LEFT]["side_bias"] > 1
    assert "other way round" in " ".join(by_name[TURNED]["doubts"])
    (models,) = told["models"]
    assert (models["model"], models["other"]) == ("policy of round 1", "reference")
    # Two of the four pairs of a prompt are of two models, and five raters see each.
    assert (models["rate"]["n"], models["rate"]["clusters"]) == (20 * 2 * 5, 20)
    assert told["scores"] | {"tie": 0, "tie_se": 0} == {
        "comparisons": 400,
        "images": 80,
        "parts": 20,
        "tie": 0,
        "tie_se": 0,
    }


def test_people_read_a_table_without_names(hitl: Hitl, tmp_path: Path):
    rate_two_models(tmp_path)
    code, out, err = hitl("agreement", "--round", 1)
    assert (code, err) == (0, "")
    assert "round 1:" in out
    assert "Pairs: α 0." in out
    assert "policy of round 1 wins against reference:" in out
    assert "rater-001" in out
    assert TURNED not in out
    assert "△ answers the other way round than the others" in out
    code, _, err = hitl("agreement", "--round", 7)
    assert code == 2
    assert "There is no round 7." in err


def test_an_empty_store_is_no_error(hitl: Hitl, tmp_path: Path):
    code, out, _ = hitl("agreement")
    assert code == 0
    assert "nothing to compare yet" in out
    told = json.loads(hitl("agreement", "--json")[1])
    assert (told["raters"], told["models"], told["ceiling"]) == ([], [], None)
    assert told["notes"] == ["Nothing has been compared yet."]


@pytest.mark.parametrize(
    ("raters", "choices", "said"),
    [
        (["ann"], ["left", "right", "left"], "One rater alone"),
        (["ann"], ["left", "right", "left"], "no two raters preferred an image of the same pair"),
        (["ann", "bob"], ["tie", "tie", "tie"], "No answer prefers an image to another"),
        (["ann", "bob"], ["tie", "tie", "tie"], "All answers are the same"),
        (["ann", "bob"], ["left", "both_bad", "right"], "“Both bad” is taken for a tie (2 of the answers)."),
        (["ann", "bob"], ["skip", "skip", "skip"], "nothing to compare yet"),
    ],
)
def test_what_cannot_be_told_is_said_in_words(
    hitl: Hitl, tmp_path: Path, raters: list[str], choices: list[str], said: str
):
    tasks = [a_task(f"t{n}", overlap=2) for n in range(3)]
    with Store.open(Workspace(tmp_path)) as store:
        store.start_round(1, "sha")
        fill(store, *tasks, raters=())
        for name in raters:
            store.add_rater(a_rater(name))
            for task, choice in zip(tasks, choices, strict=True):
                store.add_rating(a_rating(task, name, choice))
    code, out, err = hitl("agreement")
    assert (code, err) == (0, "")
    assert said in out
    assert "nan" not in out
    told = hitl("agreement", "--json")[1]
    assert "NaN" not in told
    json.loads(told)
