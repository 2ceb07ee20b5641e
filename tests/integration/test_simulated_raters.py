"""Simulated raters at the real server: turns, restarts, missing pictures, and what stops them."""

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from apps.server import build_server, serve
from apps.simulated import SimulatedRater, crew, look, run
from data.records import Image, Prompt, Rater, Task
from data.store import Store
from data.workspace import Workspace
from data.world.scenes import Item, Scene, render
from hitl.config import RateConfig
from hitl.core.errors import ConfigError
from hitl.core.live import Live
from reward_models.answers import answers_from_rows, read_snapshot


def png(items: tuple[Item, ...], background: str = "white") -> bytes:
    file = io.BytesIO()
    Picture.fromarray(render(Scene(background, items))).save(file, "PNG")
    return file.getvalue()


PAIRS = 12


@contextlib.contextmanager
def a_hub(folder: Path, *, pairs: int = PAIRS, checks: bool = False) -> Iterator[tuple[str, Store, Live, Workspace]]:
    """A round of pairs: a red circle against a small blue square, asked for "a red circle". With checks every fourth of
    them is shown again, and for every fourth there is a gold task.
    """
    workspace, live = Workspace(folder), Live()
    rng = np.random.default_rng(0)
    with Store.open(workspace, create=True) as store:
        prompt = Prompt.of("a red circle")
        store.add_prompts([prompt])
        store.start_round(1, "sha")
        tasks = []
        for number in range(pairs):
            x, y = (float(value) for value in rng.uniform(20, 44, 2))
            good = workspace.add_image(png((Item("circle", "red", x, y, 12.0),)))
            poor = workspace.add_image(png((Item("square", "blue", x, y, 7.0),), background="black"))
            for image_id in (good, poor):
                image = Image(image_id=image_id, prompt_id=prompt.prompt_id, round=1, width=64, height=64)
                store.add_images([image])
            pair = (good, poor)
            task = Task(
                task_id=f"t{number:02d}",
                round=1,
                kind="pairwise",
                prompt_id=prompt.prompt_id,
                image_ids=pair if number % 2 else pair[::-1],
            )
            tasks.append(task)
            if checks and number % 4 == 0:
                tasks.append(replace(task, task_id=f"{task.task_id} again", purpose="repeat", repeats=task.task_id))
                tasks.append(replace(task, task_id=f"{task.task_id} gold", purpose="gold", worse=poor))
        store.add_tasks(tasks)
        live.enter("rate", "Waiting for ratings", round=1, rounds=1)
        server = serve(build_server(store, workspace, live, token="t", secret="s", rate=RateConfig()), "127.0.0.1", 0)
        yield server.url, store, live, workspace
        server.stop()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Store, Live, Workspace]]:
    with a_hub(tmp_path) as served:
        yield served


def rate_until(url: str, store: Store, live: Live, raters: list[SimulatedRater], done: int, round: int = 1) -> None:
    """Let the raters work until the round has `done` ratings or more, then stop them."""
    stop = threading.Event()
    worker = threading.Thread(target=run, args=(url, raters, stop), kwargs={"poll_s": 0.02})
    worker.start()
    for _ in range(3000):
        if store.progress(round).done >= done:
            break
        threading.Event().wait(0.01)
    stop.set()
    worker.join(60)
    assert not worker.is_alive()
    assert store.progress(round).done >= done


def test_a_crew_rates_a_round_in_turns_and_survives_being_stopped(hub: tuple[str, Store, Live, Workspace]) -> None:
    """Stopped in the middle and started anew, rating i is still rater i mod 3's, and every task is rated once."""
    url, store, live, _ = hub
    raters = [replace(rater, side_bias=0.0) for rater in crew(3, seed=5, taste_weight=0.5)]
    rate_until(url, store, live, raters, 5)
    rate_until(url, store, live, raters, PAIRS)
    ratings = sorted(store.ratings(round=1), key=lambda rating: rating.task_id)
    assert [rating.task_id for rating in ratings] == [f"t{number:02d}" for number in range(PAIRS)]
    names = {rater.rater_id: rater.name for rater in store.raters()}
    assert [names[rating.rater_id] for rating in ratings] == [f"simulated-{i % 3 + 1}" for i in range(PAIRS)]
    by_name = {rater.name: rater for rater in raters}
    assert [r.rating_id for r in ratings] == [by_name[names[r.rater_id]].rating_id(r.task_id) for r in ratings]
    comparisons = sorted(store.comparisons(round=1), key=lambda comparison: comparison.task_id)
    assert [comparison.outcome for comparison in comparisons] == ["b", "a"] * (PAIRS // 2)


def test_a_crew_answers_blind_comparisons_and_then_a_study(hub: tuple[str, Store, Live, Workspace]) -> None:
    """A red circle was asked for. The study asks both questions of one pair: the circle shows the text, and which looks
    better is taste alone.
    """
    url, store, live, _ = hub
    first = store.tasks(1)[0]
    blind = replace(first, task_id="t00 blind", purpose="judge", models=("one", "other"))
    study = [
        replace(blind, task_id=f"s {kind}", kind=kind, study="which", overlap=2) for kind in ("alignment", "quality")
    ]
    store.add_tasks([blind, *study, replace(first, task_id="t last")])
    raters = [replace(rater, side_bias=0.0) for rater in crew(2, seed=5, taste_weight=0.5)]
    rate_until(url, store, live, raters, PAIRS + 1)
    assert [each.outcome for each in store.judgements(1)] == ["b"]
    assert store.progress(1).needed == PAIRS + 1
    live.enter("train", "Training", round=1, rounds=1)
    stop = threading.Event()
    worker = threading.Thread(target=run, args=(url, raters, stop), kwargs={"poll_s": 0.02})
    worker.start()
    for _ in range(1000):
        if len(store.judgements(study="which")) == 4:
            break
        threading.Event().wait(0.01)
    stop.set()
    worker.join(60)
    said = store.judgements(study="which")
    assert [(each.kind, each.outcome) for each in said[:2]] == [("alignment", "b")] * 2
    assert len({each.rater_id for each in said}) == 2
    judged = [look(store_image(hub, image_id), "a red circle").taste for image_id in first.image_ids]
    better = "a" if judged[0] > judged[1] else "b"
    assert [(each.kind, each.outcome) for each in said[2:]] == [("quality", better)] * 2


def store_image(hub: tuple[str, Store, Live, Workspace], image_id: str) -> bytes:
    return hub[3].image_path(image_id).read_bytes()


@pytest.mark.slow
def test_a_crew_is_given_checks_and_their_answers_do_not_depend_on_being_stopped(tmp_path: Path) -> None:
    """30 pairs for two raters: each answers 15, and long enough after some of the first ones sees them again."""
    raters = [replace(rater, side_bias=0.0) for rater in crew(2, seed=5, taste_weight=0.5)]
    found = []
    for stops in ((30,), (7, 20, 30)):
        with a_hub(tmp_path / f"{len(stops)}", pairs=30, checks=True) as (url, store, live, _):
            for done in stops:
                rate_until(url, store, live, raters, done)
            ratings = store.ratings(round=1)
            found.append([(each.task_id, each.rater_id, each.payload, each.image_ids) for each in ratings])
            progress = store.progress(1)
            assert (progress.done, progress.needed) == (30, 30)
            assert progress.checks == len(ratings) - 30
            repeats = store.repeats(1)
            assert len(repeats) >= 2
            assert all(each.is_swapped and each.agreement == 1.0 for each in repeats)
            gold = store.gold_answers(1)
            assert {each.rater_id for each in gold} == {rater.rater_id for rater in store.raters()}
            assert all(each.correct == 1.0 for each in gold)
    assert found[0] == found[1]


@pytest.mark.slow
def test_checks_of_every_kind_are_answered_and_the_same_when_the_rater_is_stopped(tmp_path: Path) -> None:
    """A round of each kind, 14 tasks of the same pictures for a rater; the first comes again, and in gold a small blue
    square stands for a red circle.
    """
    rater = replace(crew(1, seed=5, taste_weight=0.2)[0], noise=1e-6)
    found = []
    for stops in ((14,), (11, 14)):
        with a_hub(tmp_path / f"{len(stops)}", pairs=4) as (url, store, live, _):
            pairs = [task.image_ids if n % 2 else task.image_ids[::-1] for n, task in enumerate(store.tasks(1))]
            goods, poors = zip(*pairs, strict=True)
            # By kind: how many good and poor pictures a task has, how many a gold task, and what is known of that.
            asked = {
                "ranking": ((2, 2), (3, 1), {"worse": poors[0]}),
                "best": ((3, 1), (1, 3), {"better": goods[0]}),
                "grades": ((1, 0), (0, 1), {"worse": poors[0]}),
                "good_bad": ((1, 1), (1, 1), {"worse": poors[0]}),
            }
            for round, (kind, (usual, odd, known)) in enumerate(asked.items(), 2):
                tasks = [
                    Task(
                        task_id=f"{kind} {number}",
                        round=round,
                        kind=kind,
                        prompt_id=store.prompts()[0].prompt_id,
                        image_ids=(*goods[: usual[0]], *poors[: usual[1]]),
                    )
                    for number in range(14)
                ]
                again = replace(tasks[0], task_id=f"{kind} again", purpose="repeat", repeats=tasks[0].task_id)
                gold = replace(tasks[0], task_id=f"{kind} gold", purpose="gold", **known)
                gold = replace(gold, image_ids=(*goods[: odd[0]], *poors[: odd[1]]))
                store.start_round(round, "sha")
                store.add_tasks([*tasks, again, gold])
                live.enter("rate", "Waiting for ratings", round=round, rounds=5)
                for done in stops:
                    rate_until(url, store, live, [rater], done, round=round)
                assert [(each.is_swapped, each.agreement) for each in store.repeats(round)] == [(True, 1.0)], kind
                assert [each.correct for each in store.gold_answers(round)] == [1.0], kind
            found.append([(each.task_id, each.payload, each.image_ids) for each in store.ratings()])
    assert found[0] == found[1]


def test_raters_leave_when_all_rounds_are_done(hub: tuple[str, Store, Live, Workspace]) -> None:
    url, _, live, _ = hub
    live.enter("finished", "Done")
    run(url, crew(2, seed=5, taste_weight=0.5), threading.Event(), poll_s=0.02)


def test_a_task_whose_picture_is_missing_is_skipped(hub: tuple[str, Store, Live, Workspace]) -> None:
    url, store, live, workspace = hub
    (first, *_) = store.tasks(round=1)
    workspace.image_path(first.image_ids[0]).unlink()
    rate_until(url, store, live, crew(1, seed=5, taste_weight=0.5), PAIRS - 1)
    choices = {rating.task_id: rating.payload["choice"] for rating in store.ratings(round=1)}
    assert choices.pop(first.task_id) == "skip"
    assert "skip" not in choices.values()


def test_a_rater_that_is_not_let_in_ends_the_rating_and_what_was_rated_stays(
    hub: tuple[str, Store, Live, Workspace],
) -> None:
    """The second rater's name belongs to a person, so the first one's only turn is all that gets done."""
    url, store, live, _ = hub
    raters = crew(2, seed=5, taste_weight=0.5)
    store.add_rater(Rater(rater_id="p", name=raters[1].name, kind="human", created_at=datetime.now(UTC)))
    with pytest.raises(ConfigError, match=r"'simulated-2' was not let in: .* belongs to a human rater"):
        run(url, raters, threading.Event(), poll_s=0.02)
    (first,) = store.ratings(round=1)
    rate_until(url, store, live, raters[:1], PAIRS)
    assert store.ratings(round=1)[0] == first
    assert len({rating.task_id for rating in store.ratings(round=1)}) == len(store.ratings(round=1)) == PAIRS


def test_raters_ask_no_proxy_of_the_environment(
    hub: tuple[str, Store, Live, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, store, live, _ = hub
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # nobody answers there; who asks it waits for ever
        proxy.setblocking(False)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            for spelling in (name, name.upper()):
                monkeypatch.setenv(spelling, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        rate_until(url, store, live, crew(2, seed=5, taste_weight=0.5), PAIRS)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize("kind", ["ranking", "best", "grades", "good_bad"])
def test_answers_of_every_kind_reach_the_snapshot_and_outlast_a_rebuild(
    kind: str, hub: tuple[str, Store, Live, Workspace]
) -> None:
    """Two good pictures and two poor ones in a task; the good ones come out better, whatever was asked."""
    url, store, live, workspace = hub
    (pairs, prompt) = store.tasks(round=1), store.prompts()[0]
    store.start_round(2, "sha")
    for number in range(0, PAIRS, 2):
        images = (*pairs[number].image_ids[::-1], *pairs[number + 1].image_ids)  # good, poor, good, poor
        store.add_tasks([Task(task_id=f"k{number}", round=2, kind=kind, prompt_id=prompt.prompt_id, image_ids=images)])
    live.enter("rate", "Waiting for ratings", round=2, rounds=2)
    raters = [replace(rater, taste_weight=0.2) for rater in crew(2, seed=5, taste_weight=0.2)]
    stop = threading.Event()
    worker = threading.Thread(target=run, args=(url, raters, stop), kwargs={"poll_s": 0.02})
    worker.start()
    while not store.progress(2).is_complete:
        threading.Event().wait(0.01)
    stop.set()
    worker.join(60)
    assert store.answers(2) == PAIRS // 2
    assert store.comparisons(2) == []
    snapshot = store.write_snapshot(workspace.root / "one.parquet", 2)
    answers = answers_from_rows(read_snapshot(snapshot.path))
    forms = {"ranking": "ranking", "best": "ranking", "grades": "grade", "good_bad": "label"}
    assert {answer.form for answer in answers} == {forms[kind]}
    for answer in answers:
        found = {image: value or 99 for image, value in zip(answer.images, answer.values, strict=True)}
        task = next(task for task in store.tasks(2) if set(task.image_ids) == set(found))
        good, poor, second, other = (found[image] for image in task.image_ids)
        if kind == "best":
            assert 1 in (good, second)
        elif kind == "ranking":
            assert max(good, second) < min(poor, other)
        else:
            assert min(good, second) > max(poor, other)
    store.close()
    with Store.rebuild(workspace) as again:
        assert again.write_snapshot(workspace.root / "two.parquet", 2).sha256 == snapshot.sha256
