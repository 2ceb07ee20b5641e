"""Blind comparisons that a round mixes into the next one's tasks: pictures, tasks, and what is made of the answers."""

import io
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import stats

from data.blind import blind_tasks, is_for_judging, reward_agreement
from data.evaluation import ImageScore, write_scores
from data.judged_images import JudgedImages
from data.records import Image, Judgement, Prompt, Rater, Rating, Task
from data.store import Store
from data.validation import check_task
from data.win_rates import blind_win_rates
from data.workspace import Workspace
from hitl import rounds
from hitl.config import load_config
from hitl.rounds import Hub, Round, draw_images
from tests.facts import an_image

PROMPTS = [
    Prompt.of("a red fox"),
    *(Prompt.of(f"a {animal}", split="held_out") for animal in ("hen", "bee", "cow", "owl")),
]
HELD_OUT = {prompt.prompt_id for prompt in PROMPTS[1:]}
PER_PROMPT = 3


ROWS = [(prompt.prompt_id, index) for prompt in PROMPTS for index in range(PER_PROMPT)]


def pictures(seed: int) -> np.ndarray:
    """uint8 (15, 3, 8, 6): five prompts, three images each."""
    return np.random.default_rng(seed).integers(0, 256, (len(ROWS), 3, 8, 6), dtype=np.uint8)


def judged_images(images: np.ndarray, checkpoint: str, rows: Sequence[tuple[str, int]] = ROWS) -> JudgedImages:
    prompt_ids, indices = zip(*rows, strict=True)
    return JudgedImages(images=images, prompt_ids=prompt_ids, indices=indices, checkpoint=checkpoint)


def leave(workspace: Workspace, number: int, **subjects: tuple[int, JudgedImages | None]) -> None:
    """What the evaluate stage of a round leaves: each subject's pictures, new or of an earlier round."""
    drawn = {}
    for name, (drawn_in, found) in subjects.items():
        kept_as = "policy" if name == "previous" else name
        path = workspace.stage_dir(drawn_in, "evaluate") / f"{kept_as}-0123.npz"
        if found is not None:
            found.save(path)
        drawn[name] = path.relative_to(workspace.root).as_posix()
    provenance = {"model": "starter", "steps": 20, "guidance": 5.0, "seed": "0/evaluate/PROMPT_ID/INDEX"}
    told = {"provenance": provenance | {"policy_round": number}, "drawn": drawn}
    workspace.write_manifest(number, "evaluate", told)


@pytest.fixture
def judged(tmp_path: Path) -> Workspace:
    """Two rounds; the reference was drawn in the first."""
    workspace = Workspace(tmp_path)
    one, two = (judged_images(pictures(number), f"sha-{number}") for number in (1, 2))
    leave(workspace, 1, reference=(1, judged_images(pictures(0), "")), policy=(1, one))
    leave(workspace, 2, reference=(1, None), previous=(1, None), policy=(2, two))
    return workspace


def make(workspace: Workspace, number: int = 2, share: float = 0.5, tasks: int = 16, seed: int = 0) -> Any:
    return blind_tasks(
        workspace, number, held_out=HELD_OUT, share=share, tasks=tasks, overlap=2, chance=random.Random(seed)
    )


def pixels(workspace: Workspace, image_id: str) -> np.ndarray:
    """The file's, by Pillow."""
    return np.asarray(Picture.open(io.BytesIO(workspace.image_path(image_id).read_bytes()))).transpose(2, 0, 1)


def test_tasks_show_what_policy_and_opponent_drew_from_one_seed_for_a_held_out_prompt(judged: Workspace):
    drawn = {"policy of round 2": pictures(2), "policy of round 1": pictures(1), "reference": pictures(0)}
    images, tasks = make(judged)
    by_id = {image.image_id: image for image in images}
    assert Counter(task.models for task in tasks) == {
        ("policy of round 2", "reference"): 4,
        ("policy of round 2", "policy of round 1"): 4,
    }
    for task in tasks:
        check_task(task)
        assert (task.purpose, task.kind, task.round, task.overlap) == ("judge", "pairwise", 3, 2)
        assert task.prompt_id in HELD_OUT
        (place,) = [place for place, prompt in enumerate(PROMPTS) if prompt.prompt_id == task.prompt_id]
        of = [by_id[image_id] for image_id in task.image_ids]
        assert task.models is not None
        assert of[0].provenance["index"] == of[1].provenance["index"]
        for image, model in zip(of, task.models, strict=True):
            row = place * PER_PROMPT + image.provenance["index"]
            assert (pixels(judged, image.image_id) == drawn[model][row]).all()
            assert (image.round, image.width, image.height) == (3, 6, 8)
            assert is_for_judging(image)
            assert image.provenance["seed"] == f"0/evaluate/{task.prompt_id}/{image.provenance['index']}"
            assert (image.provenance["model"], image.provenance["steps"]) == ("starter", 20)
            number = image.provenance["policy_round"]
            assert model == (f"policy of round {number}" if number else "reference")
            assert image.provenance["checkpoint"] == (f"sha-{number}" if number else "")


def test_every_prompt_has_its_share_and_the_same_chance_gives_the_same(judged: Workspace):
    """Four of 12 pairs each, one of each of four prompts: a propensity of 1/3."""
    images, tasks = make(judged)
    for opponent in ("reference", "policy of round 1"):
        own = [task for task in tasks if task.models and task.models[1] == opponent]
        assert {task.prompt_id for task in own} == HELD_OUT
        assert [task.propensity for task in own] == pytest.approx([1 / 3] * 4)
    assert make(judged) == (images, tasks)
    assert make(judged, seed=1) != (images, tasks)


def test_after_the_first_round_the_policy_before_is_the_reference(judged: Workspace):
    _, tasks = make(judged, number=1)
    assert {task.models for task in tasks} == {("policy of round 1", "reference")}
    assert len(tasks) == 8


def test_a_tenth_of_a_few_tasks_is_a_tenth_in_the_mean(judged: Workspace):
    """0.1 of 8 for each of two opponents, 0.4 each: none, one or two, 0.8 in the mean, within 4 standard errors."""
    counts = [len(make(judged, share=0.1, tasks=8, seed=seed)[1]) for seed in range(200)]
    assert set(counts) <= {0, 1, 2}
    assert abs(np.mean(counts) - 0.8) < 4 * np.sqrt(2 * 0.4 * 0.6 / 200)


def test_pictures_that_are_the_same_are_no_pair(tmp_path: Path):
    """Of twelve held-out pairs all but the last are alike."""
    workspace, reference = Workspace(tmp_path), pictures(0)
    policy = reference.copy()
    policy[-1] = 255 - policy[-1]
    leave(workspace, 1, reference=(1, judged_images(reference, "")), policy=(1, judged_images(policy, "x")))
    _, tasks = make(workspace, number=1)
    assert [task.prompt_id for task in tasks] == [PROMPTS[-1].prompt_id]


def test_pictures_are_matched_by_prompt_and_index_and_not_by_row(judged: Workspace):
    """The policy has fewer pictures, and in another order."""
    rows = ROWS[:2:-2]
    shown = np.stack([pictures(2)[ROWS.index(row)] for row in rows])
    leave(judged, 2, reference=(1, None), policy=(2, judged_images(shown, "sha-2", rows)))
    images, tasks = make(judged, share=1.0)
    by_id = {image.image_id: image for image in images}
    assert len(tasks) == len(rows) == 6
    for task in tasks:
        for image_id, seed in zip(task.image_ids, (2, 0), strict=True):
            row = ROWS.index((task.prompt_id, by_id[image_id].provenance["index"]))
            assert (pixels(judged, image_id) == pictures(seed)[row]).all()


def test_a_round_that_was_not_judged_makes_none(tmp_path: Path, judged: Workspace):
    empty = Workspace(tmp_path / "other")
    assert make(empty, number=0) == make(empty, number=1) == ([], [])
    assert make(judged, share=0.0) == ([], [])
    path = judged.stage_dir(2, "evaluate") / "policy-0123.npz"
    path.write_bytes(b"half a file")
    assert make(judged) == ([], [])
    path.unlink()
    assert make(judged) == ([], [])
    judged.write_manifest(2, "evaluate", {"summary": {}})  # of an earlier version
    assert make(judged) == ([], [])


# -- in a round -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(judged: Workspace) -> Iterator[Hub]:
    settings = ["rate.ratings_per_round=3", "rate.repeats=0", "rate.gold=0", "rate.blind=0.5"]
    with Store.open(judged, create=True) as store:
        store.add_prompts(PROMPTS)
        yield Hub(workspace=judged, store=store, config=load_config(judged.config_path, settings))


def draw(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Round 3 draws four pictures of the one prompt that it trains on."""

    def work(round: Round, name: str, **inputs: Any) -> dict[str, Any]:
        folder = hub.workspace.stage_dir(round.number, name)
        folder.mkdir(parents=True, exist_ok=True)
        for n in range(4):
            Picture.fromarray(np.full((8, 6, 3), 50 * n, np.uint8)).save(folder / f"{n}.png")
        row = {"prompt_id": PROMPTS[0].prompt_id, "seed": "s"}
        rows = [{**row, "index": n, "file": f"{n}.png"} for n in range(4)]
        (folder / "result.json").write_text("{}")
        return {"images": rows, "provenance": {"policy_round": 2}}

    monkeypatch.setattr(rounds, "_work", work)
    round = Round(hub=hub, number=3, config=hub.config, prompts=PROMPTS)
    hub.store.start_round(3, "sha")
    hub.workspace.write_manifest(2, "train", {"checkpoint": "sha-2"})
    result = draw_images(round)
    assert result == {"images": 4, "tasks": 3}
    return hub.store.tasks(3)


def test_a_round_mixes_them_among_its_tasks_and_learns_from_none(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    tasks = draw(hub, monkeypatch)
    judgements = [task for task in tasks if task.purpose == "judge"]
    assert 0 < len(judgements) <= 2  # 0.75 each, rounded up or down
    assert [task.task_id for task in tasks] == [f"r0003-{n:05d}" for n in range(len(tasks))]
    assert len(hub.store.images(3)) == 4 + 2 * len(judgements)
    round = Round(hub=hub, number=3, config=hub.config, prompts=PROMPTS)
    learned = {each["image_id"] for each in rounds._drawn(round)}
    assert len(learned) == 4
    assert learned.isdisjoint(image_id for task in judgements for image_id in task.image_ids)
    rounds._add_pairs(round, "for the test")  # takes more pairs: of what it drew to learn from
    more = [task for task in hub.store.tasks(3) if task not in tasks]
    assert {task.purpose for task in more} == {"learn"}
    assert {image_id for task in more for image_id in task.image_ids} <= learned


def test_a_round_that_was_killed_while_drawing_makes_the_same_ones(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    tasks = draw(hub, monkeypatch)
    images = hub.store.images(3)
    assert draw(hub, monkeypatch) == tasks
    assert hub.store.images(3) == images


def test_without_a_share_the_tasks_are_those_of_before(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    hub.config = replace(hub.config, rate=replace(hub.config.rate, blind=0.0))
    assert {task.purpose for task in draw(hub, monkeypatch)} == {"learn"}
    assert len(hub.store.images(3)) == 4


# -- what people said -------------------------------------------------------------------------------------------------


def a_judgement(prompt: str, rater: str, outcome: Any, other: str = "reference") -> Judgement:
    return Judgement(
        rating_id=f"{prompt}{rater}{other}",
        task_id=f"{prompt}{other}",
        round=3,
        study=None,
        kind="pairwise",
        prompt_id=prompt,
        rater_id=rater,
        model="policy of round 2",
        other=other,
        outcome=outcome,
        both_bad=False,
        left="a",
    )


def test_win_rates_by_hand_with_intervals_over_prompts_and_over_raters():
    """Ann wins 1 + 1/2 + 1 + 0 + 0, Bob 0 + 1: 3.5 of 7, of five prompts, by two raters.

    Another opponent is another row.
    """
    said = [("p", "ann", "a"), ("q", "ann", "tie"), ("s", "ann", "a"), ("t", "ann", "b"), ("u", "ann", "b")]
    said += [("p", "bob", "b"), ("q", "bob", "a")]
    votes = [a_judgement(*each) for each in said]
    first, second = blind_win_rates([*votes, a_judgement("p", "ann", "b", "policy of round 1")])
    assert (first.model, first.other, first.ties) == ("policy of round 2", "reference", 1 / 7)
    assert (first.over_prompts.mean, first.over_prompts.n, first.over_prompts.clusters) == (3.5 / 7, 7, 5)
    assert (first.over_raters.mean, first.over_raters.n, first.over_raters.clusters) == (3.5 / 7, 7, 2)
    # What each prompt's votes are away from 1/2: 0, 1/2, 1/2, -1/2, -1/2. Student's t of four degrees of freedom.
    half = 2.776445 * math.sqrt(5 / 4 * 4 * 0.25) / 7
    assert (first.over_prompts.low, first.over_prompts.high) == pytest.approx((0.5 - half, 0.5 + half))
    # Both raters are even: another kind, of whom there may be 84 %, may not be among two.
    assert (first.over_raters.low, first.over_raters.high) == pytest.approx((0.5 * 0.025**0.5, 1 - 0.5 * 0.025**0.5))
    assert (second.other, second.over_prompts.mean, second.over_prompts.n) == ("policy of round 1", 0.0, 1)
    assert np.isnan(second.over_raters.low)


@pytest.mark.parametrize("prompts", [5, 12, 40])
def test_votes_that_are_all_alike_leave_open_what_so_few_prompts_do_not_show(prompts: int):
    """All won or all lost: Clopper and Pearson's ends. All ties: half as far to either side."""
    names = [f"p{n}" for n in range(prompts)]
    ends = {}
    for outcome in ("a", "b", "tie"):
        votes = [a_judgement(name, rater, outcome) for name in names for rater in ("ann", "bob")]
        (found,) = blind_win_rates(votes)
        ends[outcome] = found.over_prompts.low, found.over_prompts.high
    exact = stats.binomtest(prompts, prompts).proportion_ci(0.95, method="exact")
    assert ends["a"] == pytest.approx((exact.low, 1.0))
    assert ends["b"] == pytest.approx((0.0, 1 - exact.low))
    assert ends["tie"] == pytest.approx((0.5 * exact.low, 1 - 0.5 * exact.low))


def test_of_fewer_than_five_prompts_a_win_rate_has_no_interval():
    (found,) = blind_win_rates([a_judgement(name, "ann", "tie") for name in "pqst"])
    assert (found.over_prompts.mean, found.over_prompts.clusters) == (0.5, 4)
    assert np.isnan([found.over_prompts.low, found.over_prompts.high]).all()


# -- and the reward model that the policy was trained on ---------------------------------------------------------------


def scores_of(workspace: Workspace, rewards: dict[tuple[str, str, int], float]) -> None:
    rows = [
        ImageScore(
            subject=subject,
            prompt_id=prompt_id,
            prompt="",
            task="",
            split="held_out",
            index=index,
            values={"reward": value},
        )
        for (subject, prompt_id, index), value in rewards.items()
    ]
    write_scores(workspace.stage_dir(2, "evaluate") / "scores.parquet", rows)


def test_the_reward_model_is_held_against_blind_votes_on_its_policys_pictures(hub: Hub):
    """It likes the policy's pictures more than the reference's, and less than the last policy's, but for one picture.

    Against the reference people prefer the policy's twice, the reference's once, and once nobody: 2 of 3 right. Against
    the last policy they prefer the policy's on the first prompt, where the scores are equal, and the last one's on two:
    2.5 of 3. Together 4.5 of 6 decided votes, on three prompts.
    """
    images, tasks = make(hub.workspace, share=1.0, tasks=100)
    hub.store.start_round(3, "sha")
    hub.store.add_images(images)
    hub.store.add_rater(Rater(rater_id="ann", name="Ann", kind="human", created_at=datetime.now(UTC)))
    assert reward_agreement(hub.workspace, hub.store, 3) is None
    order = sorted(HELD_OUT)
    chosen: dict[tuple[str, str], Task] = {(task.prompt_id, (task.models or ("", ""))[1]): task for task in tasks}
    said = {
        "reference": ("left", "left", "right", "tie"),
        "policy of round 1": ("left", "right", "right", None),
    }
    index = {image.image_id: image.provenance["index"] for image in images}
    rewards = {}
    for other, choices in said.items():
        for prompt_id, choice in zip(order, choices, strict=True):
            if choice is None:
                continue
            task = chosen[prompt_id, other]
            hub.store.add_tasks([task])
            hub.store.add_rating(rating_of(task, choice))
            place = index[task.image_ids[0]]
            rewards["policy", prompt_id, place] = 1.0
            even = prompt_id == order[0]
            subject = "reference" if other == "reference" else "previous"
            rewards[subject, prompt_id, place] = 0.0 if other == "reference" else 1.0 if even else 2.0
    scores_of(hub.workspace, rewards)
    found = reward_agreement(hub.workspace, hub.store, 3)
    assert found is not None
    assert (found.mean, found.n, found.clusters) == (pytest.approx(4.5 / 6), 6, 3)


def rating_of(task: Task, choice: str) -> Rating:
    return Rating(
        rating_id=f"rating of {task.task_id}",
        task_id=task.task_id,
        rater_id="ann",
        kind="pairwise",
        payload={"choice": choice},
        image_ids=task.image_ids,
        dwell_ms=900,
        client_time="2026-11-20T13:00:00+01:00",
        server_time=datetime.now(UTC),
        app_version="0.1.0",
    )


def test_an_image_that_was_drawn_to_learn_from_is_not_for_judging():
    assert not is_for_judging(an_image("x"))
    assert is_for_judging(replace(an_image("x"), provenance={"drawn_for": "judging"}))
    assert isinstance(an_image("x"), Image)
