"""The papers' experiments: what they say of numbers; that they run from nothing to a page, and go on when killed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from apps.simulated import Judgement
from benchmarks.papers import runs
from benchmarks.papers.__main__ import IMAGES, PAGES, RESULTS
from benchmarks.papers.experiment import run
from benchmarks.papers.experiments import EXPERIMENTS
from benchmarks.papers.guarded import verdicts
from benchmarks.papers.judging import judged_rows
from benchmarks.papers.pages import rendered
from benchmarks.papers.plan import SIZES, Judged, Training
from benchmarks.papers.rewards import answers, random_pairs
from benchmarks.papers.runs import complete, folder_of, progress_of, results
from benchmarks.papers.summary import MEASURES, summarise
from benchmarks.papers.tables import cell
from data.guard import Look
from hitl.core.errors import ConfigError

SMALLEST = SIZES["smallest"]


def test_a_gain_is_paired_over_prompts_within_a_seed_and_students_over_seeds():
    """One image of each prompt: the policy of seed 1 gains 1, 2, 3 and 4 on the held-out prompts, that of seed 2 twice
    as much. Means 2.5 and 5, so 3.75 with t of one degree of freedom.
    """
    judged = Judged(prompts_per_task=1, images_per_prompt=1, bias_images_per_prompt=1)
    trainings = [Training(algorithm="dpok", judged=judged, seed=seed) for seed in (1, 2)]
    rows = judged_rows(judged)
    is_asked = np.array([prompt.split == "held_out" and prompt.task != "bias" for prompt, _ in rows])
    gain = np.zeros(len(rows))
    gain[is_asked] = [1, 2, 3, 4]
    before = np.resize([-1.0, 1.0], len(rows))  # of standard deviation 1
    scores = [{measure: before + k * gain for measure in MEASURES} for k in (1, 2)]
    found = {
        each.key: {"epochs": [{"seconds": 1.0}], "looks": [_look(given)]}
        for each, given in zip(trainings, scores, strict=True)
    }
    reference = {measure: before.tolist() for measure in MEASURES}
    arm = summarise({"rl": trainings}, found, {trainings[0].key: reference})["rl"]
    reward = arm["gains"]["held_out"]["asked"]["reward"]
    assert [each["mean"] for each in reward["by_seed"]] == [2.5, 5.0]
    assert reward["by_seed"][0]["clusters"] == 4
    half = stats.t.ppf(0.975, 1) * np.std([2.5, 5.0], ddof=1) / np.sqrt(2)
    assert reward["over_seeds"]["low"] == pytest.approx(3.75 - half, abs=1e-3)
    assert reward["over_seeds"]["high"] == pytest.approx(3.75 + half, abs=1e-3)
    assert arm["gains"]["train"]["asked"]["reward"]["over_seeds"]["mean"] == 0


def _look(scores: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": 1, "queries": 4, "seconds": 1.0, "nats": 0.1, "scores": scores}


def test_a_cell_says_points_of_verdicts_and_leaves_out_an_interval_that_is_not_there():
    assert cell({"mean": 0.123, "low": -0.01, "high": 0.256}, "exact") == "+12.3 [−1.0, 25.6]"
    assert cell({"mean": -0.5, "low": None, "high": None}, "reward") == "−0.50"


def test_a_page_gets_its_numbers_from_the_tables_alone():
    page = "Words.\n\n<!-- table one -->\nold\n<!-- end -->\n\nMore, 5 %.\n\n<!-- table two -->\n<!-- end -->\n"
    wanted = "Words.\n\n<!-- table one -->\nA\nB\n<!-- end -->\n\nMore, 5 %.\n\n<!-- table two -->\nC\n<!-- end -->\n"
    assert rendered(page, {"one": "A\nB", "two": "C"}) == wanted
    assert rendered(wanted, {"one": "A\nB", "two": "C"}) == wanted
    with pytest.raises(ConfigError, match="two"):
        rendered(page, {"one": ""})


def test_answers_are_asked_within_a_prompt_and_the_flipped_share_is_turned_round():
    judgements = [Judgement(correctness=1.0, taste=0.5), Judgement(correctness=0.0, taste=0.5)] * 3
    texts = [text for text in ("a", "b", "c") for _ in range(2)]
    pairs = random_pairs(4000, 3, 2, seed=0)
    assert {tuple(sorted(pair)) for pair in pairs} == {(0, 1), (2, 3), (4, 5)}

    def share_right(**changes: Any) -> float:
        rows = answers(replace(SMALLEST.ratings, raters=8, **changes), texts, judgements, pairs, 1)
        right = [row["outcome"] == ("a" if a % 2 == 0 else "b") for row, (a, _) in zip(rows, pairs, strict=True)]
        return float(np.mean(right))

    clean = share_right()
    assert clean > 0.95  # side bias of up to 5 % errs in half of its answers
    assert share_right(flipped=0.4) == pytest.approx(0.6 * clean + 0.4 * (1 - clean), abs=0.03)
    assert share_right(adversaries=1) == pytest.approx(clean - (2 * clean - 1) / 8, abs=0.02)


def test_trainings_that_differ_in_anything_have_other_keys():
    one = SMALLEST.training("dpok")
    changes: list[dict[str, Any]] = [{"seed": 2}, {"settings": {"kl_weight": 0.0}}, {"tasks": ("bias",)}, {"epochs": 3}]
    assert len({one.key, *(replace(one, **each).key for each in changes)}) == 5


def test_the_guard_stops_at_the_look_that_fell_and_the_best_policy_before_it_is_kept():
    """Six prompts of two pictures, one right and one wrong: a deviation of 1/2. The second look falls by one deviation
    everywhere, which no interval holds 0 for; the first had risen by a tenth."""
    texts = [f"prompt {i}" for i in range(6) for _ in range(2)]
    base = np.tile([0.0, 1.0], 6)

    def look(epoch: int, gold: float, reward: float) -> dict[str, Any]:
        judged = {"gold": tuple(base + gold)}
        return Look(epoch=epoch, prompts=tuple(texts), reward=(reward,) * 12, judges=judged).to_dict()

    rising = [look(0, 0, 0), look(2, 0.05, 0.1), look(4, -0.5, 0.5), look(6, -0.6, 0.9)]
    assert verdicts(rising) == {"stopped": 4, "reason": "hacking", "kept": 2}
    assert verdicts([look(0, 0, 0), look(2, 0.1, 0.1)]) == {"stopped": 0, "reason": "", "kept": 2}


def test_a_stopped_training_stays_at_the_policy_that_was_kept():
    """The held-out reward is 1, 5, 9 after the three looks; gold fell at the second, where it is stopped with the
    first's policy. The reference's rewards have deviation 1."""
    judged = Judged(prompts_per_task=1, images_per_prompt=1, bias_images_per_prompt=1)
    training = Training(algorithm="dpok", judged=judged, guard_looks=True)
    before = np.resize([-1.0, 1.0], len(judged_rows(judged)))
    texts = [f"prompt {i}" for i in range(6) for _ in range(2)]

    def seen(epoch: int, gold: float) -> dict[str, Any]:
        scores = {"gold": tuple(np.tile([0.0, 1.0], 6) + gold)}
        return Look(epoch=epoch, prompts=tuple(texts), reward=(float(epoch),) * 12, judges=scores).to_dict()

    looks = [
        _look({measure: before + gain for measure in MEASURES})
        | {"epoch": epoch, "queries": 4 * epoch, "guard": seen(epoch, gold)}
        for epoch, gain, gold in ((1, 1.0, 0.1), (2, 5.0, -0.5), (3, 9.0, -0.9))
    ]
    found = {training.key: {"epochs": [{"seconds": 1.0}], "looks": looks, "guard_start": seen(0, 0.0)}}
    reference = {training.key: {measure: before.tolist() for measure in MEASURES}}
    arm = summarise({"is": [training]}, found, reference)["is"]
    assert arm["guard"] == [{"stopped": 2, "reason": "hacking", "kept": 1}]
    guarded = [each["gains"]["held_out"]["reward"]["over_seeds"]["mean"] for each in arm["guarded"]]
    assert guarded == [1.0, 1.0, 1.0]
    assert [each["queries"] for each in arm["guarded"]] == [4, 8, 12]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("papers")


@pytest.mark.long
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_from_nothing_to_its_json_figure_and_page(name: str, work: Path):
    """All equal budgets, every table made, every picture there."""
    experiment = EXPERIMENTS[name]
    out = work / f"{name}.json"
    run(experiment, "smallest", seeds=1, work=work, out=out, images=work, command="as told")
    result = json.loads(out.read_text())
    assert len({arm["queries"] for arm in result["arms"].values()}) == 1
    assert result["machine"]["cpu"]
    assert all(experiment.tables(result).values())
    pictures = [f"{name}.png", *([f"{name}_pictures.png"] if experiment.rows_of_grid else [])]
    for picture in pictures:
        with Image.open(work / picture) as opened:
            assert opened.width > 200


@pytest.mark.long
def test_a_killed_training_goes_on_to_the_same_scores_and_a_finished_one_is_not_repeated(
    work: Path, monkeypatch: pytest.MonkeyPatch
):
    training = SMALLEST.training("dpok", epochs=2, seed=77)
    complete(training, work / "whole")
    written: list[int] = []

    def dies_in_its_second_epoch(
        path: Path, content: bytes, write: Callable[..., None] = runs.write_atomically
    ) -> None:
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_atomically", dies_in_its_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            complete(training, work / "killed")
    left = progress_of(training, work / "killed")
    assert [each["epoch"] for each in left["epochs"]] == [1]
    assert not left["finished"]
    begun: list[int] = []
    real = runs.train

    def told(*arguments: Any, on_epoch: Callable[..., None], **named: Any) -> None:
        def also(epoch: int, metrics: dict[str, float]) -> None:
            begun.append(epoch)
            on_epoch(epoch, metrics)

        real(*arguments, on_epoch=also, **named)

    monkeypatch.setattr(runs, "train", told)
    found = results([training], work / "killed")[training.key]
    assert begun == [2]
    whole = progress_of(training, work / "whole")
    assert [look["scores"] for look in found["looks"]] == [look["scores"] for look in whole["looks"]]
    before = (folder_of(training, work / "killed") / "progress.json").stat().st_mtime_ns
    results([training], work / "killed")
    assert begun == [2]
    assert (folder_of(training, work / "killed") / "progress.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_page_is_what_the_committed_json_says(name: str):
    root = Path(__file__).parents[2]
    result = json.loads((root / RESULTS / f"{name}.json").read_text())
    page = (root / PAGES / f"{name}.md").read_text(encoding="utf-8")
    tables = EXPERIMENTS[name].tables(result)
    assert rendered(page, tables) == page
    assert all(f"<!-- table {table} -->" in page for table in tables)
    assert (result["size"], len(result["seeds"])) == ("small", 3)
    assert f"../images/papers/{name}.png" in page
    for picture in (root / IMAGES).glob(f"{name}*.png"):
        assert picture.stat().st_size < 150_000
