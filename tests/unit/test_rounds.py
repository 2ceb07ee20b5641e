"""The hub's side of a round: what it begins with, waits for, opens again, and makes good after a kill."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from data.records import FINISHED, Image, Judgement, Prompt, Task
from data.store import Store
from data.win_rates import blind_win_rates
from data.workspace import STAGES, Workspace
from hitl import rounds
from hitl.commands import status
from hitl.config import load_config
from hitl.core.errors import ConfigError, NotEnoughRatings, RewardAtChance, WorsePolicy
from hitl.rounds import Hub, Round, advance, gather_ratings, run_rounds
from hitl.tasks import Uncertainty, make_tasks, read_uncertainty
from tests.facts import a_rater, a_rating, an_image
from tests.fixtures.large_pictures import photo_like_png

PROMPTS = [
    Prompt.of("a red fox", split="train"),
    Prompt.of("a blue fox", split="train"),
    Prompt.of("y", split="held_out"),
]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    workspace = Workspace(tmp_path)
    settings = ["rate.ratings_per_round=2", "rate.repeats=0", "rate.gold=0"]
    with Store.open(workspace, create=True) as store:
        for name in ("ann", "bob"):
            store.add_rater(a_rater(name))
        yield Hub(
            workspace=workspace, store=store, config=load_config(workspace.config_path, settings), settings=settings
        )


def tasks_of(
    round: Round, images: Sequence[Image], uncertainty: Uncertainty | None = None, made: Sequence[Task] = ()
) -> list[Task]:
    return make_tasks(images, round.prompts, round.config, round=round.number, uncertainty=uncertainty or {}, made=made)


def a_drawn_round(hub: Hub, images: int = 3) -> Round:
    """A round with this many images of two prompts, and its tasks."""
    hub.store.add_prompts(PROMPTS)
    for prompt in PROMPTS[:2]:
        hub.store.add_images(an_image(f"{prompt.text} {index}", prompt=prompt) for index in range(images))
    round = Round(hub=hub, number=1, config=hub.config, prompts=PROMPTS)
    hub.store.start_round(1, hub.config.sha256)
    hub.store.add_tasks(tasks_of(round, hub.store.images(1)))
    return round


def rate_all(hub: Hub) -> None:
    rated = {rating.task_id for rating in hub.store.ratings()}
    for task in hub.store.tasks():
        if task.task_id not in rated:
            hub.store.add_rating(a_rating(task, "ann"))


# -- what a round says of its ratings ---------------------------------------------------------------------------------


def test_a_round_counts_the_ratings_that_stand_and_the_raters_who_gave_them(hub: Hub):
    """Bob's answer is taken back by hand, and Ann answers instead: two ratings by one rater."""
    round = a_drawn_round(hub)
    first, second = hub.store.tasks()
    regretted = a_rating(first, "bob", "right")
    hub.store.add_rating(regretted)
    hub.store.add_rating(a_rating(first, "bob", None, voids=regretted.rating_id))
    for task in (first, second):
        hub.store.add_rating(a_rating(task, "ann"))
    result = gather_ratings(round)
    assert (result["ratings"], result["raters"], result["comparisons"]) == (2, 1, 2)


# -- what a round begins with -----------------------------------------------------------------------------------------


def test_a_round_uses_the_configured_prompts_and_not_those_of_an_earlier_file(hub: Hub, tmp_path: Path):
    held_out = '{"text": "owl", "split": "held_out"}\n'
    (tmp_path / "mine.txt").write_text(f"fox\ndog\ncat\n{held_out}")
    hub.config = load_config(tmp_path / "hitl.toml", ["prompts.file=mine.txt"])
    first = rounds._begin(hub, 1)
    (tmp_path / "mine.txt").write_text(f"dog\ncat\nbird\n{held_out}")
    second = rounds._begin(hub, 2)
    assert [prompt.text for prompt in first.prompts] == ["fox", "dog", "cat", "owl"]
    assert [prompt.text for prompt in second.prompts] == ["dog", "cat", "bird", "owl"]
    assert [prompt.text for prompt in second.trained_on] == ["dog", "cat", "bird"]
    assert len(hub.store.prompts()) == 5


def test_once_it_is_drawn_a_round_keeps_its_settings_and_prompts(hub: Hub, caplog: pytest.LogCaptureFixture):
    hub.config = load_config(hub.workspace.config_path, ["prompts.per_task=1", "model.name=starter"])
    begun = rounds._begin(hub, 1)
    drafts = hub.workspace.stage_dir(1, "draw")
    drafts.mkdir(parents=True)
    (drafts / "half.png").touch()
    rounds._begin(hub, 1)
    assert (drafts / "half.png").exists()  # the same settings: what is drawn already is used
    hub.config = load_config(hub.workspace.config_path, ["prompts.per_task=2"])
    mended = rounds._begin(hub, 1)
    assert len(mended.prompts) > len(begun.prompts)  # nothing was kept yet: a setting can be mended
    assert not (drafts / "half.png").exists()
    hub.store.add_images([an_image("one", prompt=mended.prompts[0])])
    hub.config = load_config(hub.workspace.config_path, ["prompts.per_task=3"])
    hub.settings = ["train.epochs=5"]
    kept = rounds._begin(hub, 1)
    assert kept.prompts == mended.prompts
    assert kept.config == replace(mended.config, train=replace(mended.config.train, epochs=5))
    assert "goes on with the settings it began with" in caplog.text


def test_a_model_of_your_own_needs_prompts_of_your_own(hub: Hub):
    hub.config = load_config(hub.workspace.config_path, ["model.name=somebody/model"])
    with pytest.raises(ConfigError, match="no prompts for the model"):
        run_rounds(hub, 1)


def test_a_round_that_was_reported_by_hand_ends_as_finished(hub: Hub):
    a_drawn_round(hub)
    hub.store.set_round_state(1, "evaluate")
    for stage in STAGES:
        hub.workspace.write_manifest(1, stage, {})
    (hub.workspace.round_dir(1) / "report.html").touch()
    assert run_rounds(hub, 0) == []
    assert [round.state for round in hub.store.rounds()] == [FINISHED]


# -- waiting for ratings ----------------------------------------------------------------------------------------------


def test_tasks_are_pairs_of_one_prompt_and_never_the_same_pair_twice(hub: Hub):
    round = a_drawn_round(hub)
    images = hub.store.images(1)
    seen: list[list[Task]] = []
    for _ in range(4):
        made = [task for tasks in seen for task in tasks]
        seen.append(tasks_of(round, images, made=made))
    assert [len(tasks) for tasks in seen] == [2, 2, 2, 0]  # three pairs of each of two prompts
    every = [task for tasks in seen for task in tasks]
    assert [task.propensity for task in every] == pytest.approx([2 / 6] * 2 + [2 / 4] * 2 + [1.0] * 2)
    assert len({frozenset(task.image_ids) for task in every}) == 6
    assert len({task.task_id for task in every}) == 6
    by_image = {image.image_id: image.prompt_id for image in images}
    assert all({by_image[image_id] for image_id in task.image_ids} == {task.prompt_id} for task in every)


def test_few_ratings_do_not_all_go_to_the_first_prompts(hub: Hub):
    round = a_drawn_round(hub)
    images = hub.store.images(1)
    one = replace(round.config, rate=replace(round.config.rate, ratings_per_round=1))
    asked = [
        task.prompt_id for number in range(100) for task in tasks_of(replace(round, number=number, config=one), images)
    ]
    assert len(asked) == 100
    assert 35 <= asked.count(PROMPTS[0].prompt_id) <= 65  # a fair coin leaves this once in 500 cases


def test_checks_lie_among_the_tasks_of_a_round_and_their_ids_do_not_tell(hub: Hub):
    """Of eight prompts, two by two alike, 4 * 8 = 32 tasks: 3 or 4 repeats of 0.1 and 6 or 7 gold tasks of 0.2."""
    prompts = [Prompt.of(f"a {word} {number}") for word in ("fox", "owl", "hen", "bee") for number in ("red", "blue")]
    hub.store.add_prompts(prompts)
    for prompt in prompts:
        hub.store.add_images(an_image(f"{prompt.text} {index}", prompt=prompt) for index in range(4))
    rate = replace(hub.config.rate, ratings_per_round=32, repeats=0.1, gold=0.2)
    round = Round(hub=hub, number=1, config=replace(hub.config, rate=rate), prompts=prompts)
    tasks = tasks_of(round, hub.store.images(1))
    hub.store.add_tasks(tasks)
    counts = Counter(task.purpose for task in tasks)
    assert counts["learn"] == 32
    assert counts["repeat"] in (3, 4)
    assert counts["gold"] in (6, 7)
    assert [task.task_id for task in tasks] == [f"r0001-{number:05d}" for number in range(len(tasks))]
    by_id = {task.task_id: task for task in tasks}
    for task in tasks:
        if task.repeats:
            first = by_id[task.repeats]
            assert first.purpose == "learn"
            assert (task.image_ids, task.propensity) == (first.image_ids, first.propensity)
    assert tasks_of(round, hub.store.images(1)) == tasks
    places = [
        number / (len(tasks) - 1)
        for tasks in (tasks_of(replace(round, number=n), hub.store.images(1)) for n in range(40))
        for number, task in enumerate(tasks)
        if task.purpose != "learn"
    ]
    # Nearly 400 places, uniform in [0, 1]: their mean is within 4 * 0.29 / sqrt(380) of the middle.
    assert sum(places) / len(places) == pytest.approx(0.5, abs=0.06)


def test_copies_to_show_are_made_of_a_round_with_a_large_image_and_of_no_other(hub: Hub):
    small, large = (hub.workspace.add_image(photo_like_png(side)) for side in (64, 320))
    rounds._make_display_copies(hub, [small])
    assert not hub.workspace.display_dir.exists()
    rounds._make_display_copies(hub, [small, large])
    assert {path.stem for path in hub.workspace.display_dir.rglob("*.webp")} == {small, large}
    status = hub.live.view()
    assert (status.stage, status.message, status.done, status.total) == ("draw", "Making copies to show", 2, 2)


@pytest.mark.parametrize("kind", ["best", "ranking", "grades", "good_bad"])
def test_every_kind_has_its_checks(hub: Hub, kind: str):
    """0.2 of 20 tasks are 4; of eight images of eight prompts there is gold of any size."""
    prompts = [Prompt.of(f"a {word}") for word in "fox owl hen bee cat dog pig cow".split()]
    hub.store.add_prompts(prompts)
    for prompt in prompts:
        hub.store.add_images(an_image(f"{prompt.text} {index}", prompt=prompt) for index in range(8))
    rate = replace(hub.config.rate, kind=kind, ratings_per_round=20, repeats=0.2, gold=0.2)
    round = Round(hub=hub, number=1, config=replace(hub.config, rate=rate), prompts=prompts)
    tasks = tasks_of(round, hub.store.images(1))
    assert hub.store.add_tasks(tasks) == len(tasks)
    assert Counter(task.purpose for task in tasks) == {"learn": 20, "repeat": 4, "gold": 4}
    assert {(task.kind, len(task.image_ids)) for task in tasks} == {(kind, rate.images_per_task)}


def test_pairs_that_the_last_fit_is_unsure_of_are_asked_about_more_often(hub: Hub):
    """One pair of one prompt is ten times as uncertain as the other five of two prompts; 0.3 of two tasks is chance."""
    round = a_drawn_round(hub)
    images = hub.store.images(1)
    pairs = [
        (prompt.prompt_id, frozenset(pair))
        for prompt in PROMPTS[:2]
        for pair in combinations((image.image_id for image in images if image.prompt_id == prompt.prompt_id), 2)
    ]
    uncertainty = {pair: 10.0 if number == 0 else 1.0 for number, pair in enumerate(pairs)}
    folder = hub.workspace.stage_dir(1, "draw")
    folder.mkdir(parents=True)
    rows = [
        {"prompt_id": prompt_id, "image_ids": sorted(pair), "uncertainty": uncertainty[prompt_id, pair]}
        for prompt_id, pair in pairs
    ]
    (folder / "result.json").write_text(json.dumps({"images": [], "uncertainty": rows}))
    assert read_uncertainty(hub.workspace, 1) == uncertainty
    tasks = [task for n in range(300) for task in tasks_of(replace(round, number=n), images, uncertainty)]
    chosen = Counter((task.prompt_id, frozenset(task.image_ids)) for task in tasks)
    # The first is certain in the uncertain part: 0.3 * 2 / 6 + 0.7 = 0.8; the others have 0.1 + 0.7 / 5 = 0.24.
    assert sorted({float(f"{task.propensity:.6f}") for task in tasks}) == [0.24, 0.8]
    assert chosen[pairs[0]] == pytest.approx(240, abs=5 * 6.9)
    assert Counter(task.policy for task in tasks)["random"] == pytest.approx(180, abs=5 * 11.2)


def test_waiting_ends_with_the_last_rating(hub: Hub):
    round = a_drawn_round(hub)
    timer = threading.Timer(0.3, rate_all, [hub])
    timer.start()
    result = gather_ratings(round)
    timer.join()
    assert (result["ratings"], result["comparisons"], result["raters"], result["simulated"]) == (2, 2, 1, 0)


def test_a_report_of_half_a_round_does_not_make_it_look_finished(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    """Killed before its last report, the round is not done: the early one must not stand in its place."""
    round = a_drawn_round(hub)
    report = hub.workspace.round_dir(1) / "report.html"
    for stage in STAGES:
        monkeypatch.setitem(rounds.STAGES, stage, lambda _: {})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "build_report", killed)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("half a round")
    with pytest.raises(KeyboardInterrupt):
        advance(round)
    assert hub.workspace.is_done(1, "evaluate")
    assert not report.exists()
    assert rounds.next_round(hub.workspace) == 1


def test_a_fit_that_refuses_too_few_ratings_opens_the_round_again(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    """Rate one of two, go on; the fit refuses; rate the other; now the fit sees both."""
    round = a_drawn_round(hub)
    hub.workspace.write_manifest(1, "draw", {})
    seen = []

    def refuse(_: Round) -> dict:
        seen.append(len(hub.store.comparisons(1)))
        raise RewardAtChance("at chance", hint="Collect more ratings.")

    monkeypatch.setitem(rounds.STAGES, "fit", refuse)
    hub.wait_s = 0
    hub.store.add_rating(a_rating(hub.store.tasks()[0], "ann"))
    with pytest.raises(RewardAtChance):
        advance(round)
    hub.store.add_rating(a_rating(hub.store.tasks()[1], "ann"))
    with pytest.raises(RewardAtChance):
        advance(round)
    assert seen == [1, 2]
    assert len(hub.store.tasks()) == 2
    # All are rated and still too few: the next run asks for pairs that nobody saw, until there are none.
    for expected in (4, 6):
        with pytest.raises(RewardAtChance):
            advance(round)
        assert len(hub.store.tasks()) == expected
        rate_all(hub)
        with pytest.raises(RewardAtChance):
            advance(round)
        assert (len(hub.store.tasks()), seen[-1]) == (expected, expected)
    for _ in "12":
        with pytest.raises(NotEnoughRatings, match=r"refused the answers: at chance$"):
            advance(round)
    # Whoever insists waits no longer.
    hub.wait_s = None
    forced = replace(round, config=replace(round.config, fit=replace(round.config.fit, force=True)))
    assert gather_ratings(forced)["comparisons"] == 6


def test_a_round_without_a_comparison_of_its_own_does_not_train_on_older_ones(hub: Hub):
    a_drawn_round(hub)
    rate_all(hub)
    prompt = PROMPTS[0]
    hub.store.add_images(an_image(f"later {index}", round=2, prompt=prompt) for index in range(2))
    second = Round(hub=hub, number=2, config=hub.config, prompts=PROMPTS)
    hub.store.add_tasks(tasks_of(second, hub.store.images(2)))
    hub.wait_s = 0
    with pytest.raises(NotEnoughRatings, match="Round 2 has no ratings"):
        gather_ratings(second)
    hub.store.add_rating(a_rating(hub.store.tasks(2)[0], "ann", "skip"))
    with pytest.raises(NotEnoughRatings, match="1 tasks were skipped"):
        gather_ratings(second)


def test_raters_that_fail_end_the_wait_with_their_own_error(hub: Hub):
    hub.failure = ConfigError("There is a rater called 'simulated-1' already.", hint="Choose another name.")
    with pytest.raises(ConfigError, match="simulated-1"):
        gather_ratings(a_drawn_round(hub))


def test_whoever_waits_for_nobody_is_told_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(rounds, "_QUIET_S", 0.1)
    hub.wait_s = 2.0
    with caplog.at_level(logging.WARNING), pytest.raises(NotEnoughRatings):
        gather_ratings(a_drawn_round(hub))
    said = [record.message for record in caplog.records if "0 of 2 are there" in record.message]
    assert 2 <= len(said) <= 5  # after 0.1, 0.2, 0.4, 0.8 and 1.6 s of silence, not five times a second


# -- after a kill -----------------------------------------------------------------------------------------------------


def test_metrics_that_a_killed_hub_did_not_read_are_read_by_the_next(hub: Hub):
    round = a_drawn_round(hub)
    path = hub.workspace.round_dir(1) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"stage": "train", "step": step, "total": 3, "metrics": {"loss": step / 4}} for step in (1, 2, 3)]
    rows.insert(1, {"stage": "draw", "step": 9, "total": 9, "metrics": {}})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"stage": "tra')
    rounds._keep_metrics(round, rows[0])
    unread = rounds._unread_metrics(round, "train")
    assert [row["step"] for row in unread] == [2, 3]
    for row in unread:
        rounds._keep_metrics(round, row)
    assert [(each.step, each.value) for each in hub.store.metrics(1, "train")] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert rounds._unread_metrics(round, "train") == []


# -- when the guard has stopped a training ----------------------------------------------------------------------------


@pytest.mark.parametrize(("on_stop", "done"), [("end", [1, 2]), ("go_on", [1, 2, 3])])
def test_after_a_training_that_was_stopped_no_further_round_begins_unless_asked_to(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, on_stop: str, done: list[int]
):
    """Of three rounds the second's training is stopped. Asked for again, the third is begun: a person decided."""
    monkeypatch.setattr(rounds, "configured_prompts", lambda hub, config: [])
    monkeypatch.setattr(rounds, "build_report", report := _Report(hub.workspace))
    told = {"words": "Training was stopped after epoch 5 of 50: gold fell.", "reason": "hacking"}

    def nothing(_: Round) -> dict[str, Any]:
        return {"summary": {"gains": {}}}

    def stopped_in_the_second(round: Round) -> dict[str, Any]:
        return {"guard": told if round.number == 2 else None}

    for stage in STAGES:
        monkeypatch.setitem(rounds.STAGES, stage, stopped_in_the_second if stage == "train" else nothing)
    hub.config = replace(hub.config, guard=replace(hub.config.guard, on_stop=on_stop))
    assert run_rounds(hub, 3) == done == [*dict.fromkeys(report.made)]
    assert report.made[:3] == [1, 1, 2]  # the first once more when the second's ratings tell of its policy
    assert [rounds.guard_says(hub.workspace, number) for number in (1, 2, 3)] == ["", told["words"], ""]
    entry = status._round(hub.workspace, 2)
    assert status.describe(NOTHING | {"rounds": [entry]}).splitlines()[1:] == ["round 2: done, ", f"  {told['words']}"]
    if on_stop == "end":
        assert hub.live.view().message == "Round 2's training was stopped; the rounds after it are not begun"
        assert run_rounds(hub, 1) == [3]


@pytest.mark.parametrize(
    ("votes", "setting", "ends"),
    [
        ("llllllllwl", "end", True),  # one of ten won: up to 0.1 q + (1 - q) = 0.38, q = 0.025^(1 / 10)
        ("lllllwwwwl", "end", False),
        ("llll", "end", False),  # of fewer than five prompts nothing is concluded
        ("llllllllwl", "go_on", False),
    ],
)
def test_nothing_is_trained_on_top_of_a_policy_that_people_judged_worse_until_asked_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, votes: str, setting: str, ends: bool
):
    """Each vote is of a prompt of its own."""
    judgements = [
        Judgement(
            rating_id=f"rating {i}",
            task_id=f"task {i}",
            round=2,
            study=None,
            kind="pairwise",
            prompt_id=f"prompt {i}",
            rater_id="ann",
            model="policy of round 1",
            other="reference",
            outcome="a" if vote == "w" else "b",
            both_bad=False,
            left="a",
        )
        for i, vote in enumerate(votes)
    ]
    monkeypatch.setattr(rounds, "configured_prompts", lambda hub, config: [])
    monkeypatch.setattr(rounds, "build_report", _Report(hub.workspace))
    ran: list[tuple[int, str]] = []

    def stage_of(name: str) -> rounds.Stage:
        def stage(round: Round) -> dict[str, Any]:
            ran.append((round.number, name))
            is_asked = name == "rate" and round.number == 2
            return {"blind": [asdict(each) for each in blind_win_rates(judgements)] if is_asked else []}

        return stage

    for name in STAGES:
        monkeypatch.setitem(rounds.STAGES, name, stage_of(name))
    hub.config = replace(hub.config, guard=replace(hub.config.guard, on_stop=setting))
    if ends:
        with pytest.raises(WorsePolicy, match=r"it won 10 % \[0, 38\] of 10 blind votes on 10 held-out prompts"):
            run_rounds(hub, 3)
        assert ran[-1] == (2, "rate")
        assert run_rounds(hub, 1) == [2]
    else:
        assert run_rounds(hub, 3) == [1, 2, 3]
    assert ran[-5 + STAGES.index("fit")] == (2 if ends else 3, "fit")


NOTHING = dict.fromkeys(("prompts", "images", "ratings", "raters"), 0) | dict.fromkeys(("workspace", "lost", "hub"), "")
"""What `hitl status` says beside the rounds."""


class _Report:
    def __init__(self, workspace: Workspace) -> None:
        self.made: list[int] = []
        self._workspace = workspace

    def __call__(self, workspace: Workspace, number: int) -> None:
        self.made.append(number)
        (workspace.round_dir(number) / "report.html").write_text("")
