"""How rows come into the store: once, whole, under names that nobody can take, and asked of nobody."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.board.findings import find
from apps.session import RatingDesk, Refused
from data.imports.own_tasks import make_tasks
from data.imports.records import Judged, Picture, Shown, Whole, preference
from data.imports.take import take
from data.records import Image, Prompt, Rater, Rating, Task
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError
from hitl.core.live import Live
from tests.facts import a_rating, a_task, everything, fill
from tests.imported import a_workspace, bring_in, png, png_id, said, write_pngs


@pytest.fixture
def here(tmp_path: Path) -> Iterator[tuple[Workspace, Store]]:
    workspace, store = a_workspace(tmp_path / "here")
    with store:
        yield workspace, store


def a_pair(first: int, second: int, choice: str = "left", **about: Any) -> Judged:
    pictures = (Picture(content=png(first)), Picture(content=png(second)))
    return preference(choice, **{"row": "row", "prompt": "a fox", "pictures": pictures, **about})


def test_taking_twice_changes_nothing(here: tuple[Workspace, Store]):
    workspace, store = here
    rows = [
        a_pair(1, 2, rater="r"),
        a_pair(1, 2, rater="r"),
        a_pair(2, 1, rater="s"),
        a_pair(1, 3),
        a_pair(1, 3, "tie"),
    ]
    first = take(store, workspace, rows, source="src")
    before, position = everything(store), store.position
    again = take(store, workspace, rows, source="src")
    assert (first.ratings, first.known, again.ratings, again.known) == (5, 0, 0, 5)
    assert (again.prompts, again.images, again.raters) == (0, 0, 0)
    assert everything(store) == before
    assert store.position == position


def test_one_task_is_shared_by_its_raters_whatever_the_order_of_its_images(here: tuple[Workspace, Store]):
    workspace, store = here
    take(store, workspace, [a_pair(1, 2, rater="r"), a_pair(2, 1, rater="s")], source="src")
    (task,) = store.tasks()
    assert (task.round, task.policy, task.purpose, task.overlap, task.propensity) == (0, "imported", "learn", 2, 1.0)
    assert [each.outcome for each in sorted(store.comparisons(), key=lambda each: each.rater_id)].count("a") == 1


def test_what_another_source_says_is_another_raters(here: tuple[Workspace, Store]):
    workspace, store = here
    for source in ("one", "two"):
        take(store, workspace, [a_pair(1, 2, rater="17")], source=source)
    assert [rater.name for rater in store.raters()] == ["one 17", "two 17"]
    assert len(store.comparisons()) == 2


def test_nobody_can_come_in_as_an_imported_rater(here: tuple[Workspace, Store]):
    workspace, store = here
    desk = RatingDesk(store, Live())
    person = desk.join("src 17")
    take(store, workspace, [a_pair(1, 2, rater="17"), a_pair(1, 2, rater="18")], source="src")
    assert {rater.name for rater in store.raters()} == {"src 17", "src 17 (imported)", "src 18"}
    assert desk.join("src 17") == person
    for name in ("src 18", "SRC 18", "src 17 (imported)"):
        with pytest.raises(Refused, match="This name alone lets nobody in"):
            desk.join(name)


def test_imported_tasks_are_asked_of_nobody_and_learned_from(here: tuple[Workspace, Store], tmp_path: Path):
    workspace, store = here
    take(store, workspace, [a_pair(1, 2, "left", rater="r"), a_pair(3, 4)], source="src")
    person = RatingDesk(store, Live()).join("Ann")
    assert store.lease(person.rater_id, limit=5) == []
    assert store.newest_round() is None
    assert (store.progress(0).done, store.progress(0).needed) == (0, 0)
    assert store.answers() == 2
    assert store.write_snapshot(tmp_path / "s.parquet", 1).comparisons == 2


def test_a_round_of_its_own_is_asked_as_if_nothing_were_imported(here: tuple[Workspace, Store]):
    workspace, store = here
    take(store, workspace, [a_pair(1, 2, rater="r")], source="src")
    prompt = store.prompts()[0]
    task = Task(
        task_id="r0001-00000",
        round=1,
        kind="pairwise",
        prompt_id=prompt.prompt_id,
        image_ids=store.tasks()[0].image_ids,
    )
    store.start_round(1, "sha")
    store.add_tasks([task])
    person = RatingDesk(store, Live()).join("Ann")
    assert [offer.task for offer in store.lease(person.rater_id, limit=5)] == [task]
    store.add_rating(a_rating(task, person.rater_id))
    assert (store.progress(1).done, store.progress(1).needed) == (1, 1)
    take(store, workspace, [a_pair(1, 3, rater="r")], source="src")
    assert (store.progress(1).done, store.progress(1).needed) == (1, 1)


def test_pictures_without_ratings_are_asked_once_tasks_are_made(here: tuple[Workspace, Store], tmp_path: Path):
    workspace, store = here
    write_pngs(tmp_path / "set", 1, 2, 3)
    (tmp_path / "set/prompts.csv").write_text("file,prompt\n1.png,a fox\n2.png,a fox\n3.png,a fox\n")
    bring_in(store, workspace, tmp_path / "set", format="folder", source="mine")
    take(store, workspace, [a_pair(7, 8, rater="r")], source="other")

    def made(count: int) -> list[Task]:
        return make_tasks(
            store, count, source="mine", kind="pairwise", images=2, overlap=1, chance=random.Random("seed")
        )

    with pytest.raises(ConfigError, match="No prompt has the 4 images"):
        make_tasks(store, 1, source="mine", kind="ranking", images=4, overlap=1, chance=random.Random(0))
    assert store.add_tasks(made(2)) == 2
    assert store.add_tasks(made(2)) == 0
    assert {image_id for task in made(3) for image_id in task.image_ids} <= {png_id(1), png_id(2), png_id(3)}
    assert store.newest_round() == 0
    person = RatingDesk(store, Live()).join("Ann")
    offers = store.lease(person.rater_id, limit=5)
    assert [offer.task.propensity for offer in offers] == pytest.approx([2 / 3, 2 / 3])
    shown = RatingDesk(store, Live()).next_tasks(person.rater_id, 5)
    assert (shown["state"], shown["progress"]["needed"], len(shown["tasks"])) == ("rating", 2, 2)
    for offer in offers:
        store.add_rating(a_rating(offer.task, person.rater_id))
    assert store.progress(0).is_complete
    assert store.answers() == 3
    store.start_round(1, "sha")
    assert store.newest_round() == 1


def test_a_trial_counts_the_same_and_writes_nothing(here: tuple[Workspace, Store]):
    workspace, store = here
    rows = [a_pair(1, 2, rater="r"), a_pair(2, 3, rater="s", prompt="a dog"), a_pair(1, 1), a_pair(2, 3, rater="r")]
    position = store.position
    trial = take(store, workspace, rows, source="src", is_trial=True)
    assert store.position == position
    assert not workspace.images_dir.exists()
    assert take(store, workspace, rows, source="src") == trial


def test_the_board_shows_imported_ratings_of_ones_own_images_and_doubts_nobody_for_being_fast(
    here: tuple[Workspace, Store],
):
    workspace, store = here
    prompt = Prompt.of("a fox")
    store.add_prompts([prompt])
    store.start_round(1, "sha")
    for number in (1, 2):
        about = {"prompt_id": prompt.prompt_id, "round": 1, "width": 2, "height": 2, "provenance": {"policy_round": 0}}
        store.add_images([Image(image_id=workspace.add_image(png(number)), **about)])
    task = Task(
        task_id="r0001-00000", round=1, kind="pairwise", prompt_id=prompt.prompt_id, image_ids=(png_id(1), png_id(2))
    )
    store.add_tasks([task])
    person = RatingDesk(store, Live()).join("Ann")
    store.add_rating(a_rating(task, person.rater_id, dwell_ms=4000))
    take(store, workspace, [a_pair(1, 2, rater=f"r{n}") for n in range(3)], source="src")
    found = find(store, None)
    assert {quality.rater.name: quality.answers for quality in found.raters} == {
        "Ann": 1,
        "src r0": 1,
        "src r1": 1,
        "src r2": 1,
    }
    assert {quality.doubts for quality in found.raters} == {()}
    assert sorted(found.coverage.models) == ["drawn in round 0", "reference"]
    assert [len(find(store, number).given) for number in (0, 1)] == [3, 1]


def test_what_the_journal_cannot_hold_is_refused_and_the_rest_is_in(here: tuple[Workspace, Store]):
    workspace, store = here
    broken = "\ud800"
    nan = replace(whole("a1", "t1", "left"), row="nan")
    nan = replace(nan, rating=replace(nan.rating, payload={"choice": "left", "x": float("nan")}))
    shown = [Shown(row="images", prompt="a fox", picture=Picture(content=png(number))) for number in (1, 2)]
    rows = [
        *shown,
        a_pair(1, 2, rater=broken, row="rater"),
        a_pair(1, 2, task=broken, row="task"),
        a_pair(1, 2, prompt=broken, row="prompt"),
        replace(a_pair(1, 2, row="model"), pictures=(Picture(content=png(1), model=broken), Picture(content=png(2)))),
        nan,
        a_pair(1, 2, rater="r"),
    ]
    heard: list[str] = []
    taken = take(store, workspace, rows, source="src", on_refused=lambda each: heard.append(each.row))
    assert (taken.ratings, heard) == (1, ["rater", "task", "prompt", "model", "nan"])


def test_a_known_prompt_keeps_its_task_and_split(here: tuple[Workspace, Store]):
    workspace, store = here
    store.add_prompts([Prompt.of("a fox", task="animals", split="held_out")])
    taken = take(store, workspace, [a_pair(1, 2, split="train", task="x")], source="src")
    assert (taken.kept_prompts, store.prompts()) == (1, [Prompt.of("a fox", task="animals", split="held_out")])


def whole(rating_id: str, task_id: str, choice: str | None, **changes: Any) -> Whole:
    ids = (png_id(1), png_id(2))
    prompt = Prompt.of("a fox")
    repeats = changes.pop("repeats", None)
    task = Task(
        task_id=task_id,
        round=0,
        kind="pairwise",
        prompt_id=prompt.prompt_id,
        image_ids=ids,
        policy="uncertain",
        propensity=0.25,
        purpose="repeat" if repeats else "learn",
        repeats=repeats,
    )
    rating = Rating(
        rating_id=rating_id,
        task_id=task_id,
        rater_id="rater-001",
        kind="pairwise",
        payload={} if choice is None else {"choice": choice},
        image_ids=ids,
        dwell_ms=900,
        client_time="",
        server_time=datetime(2026, 1, 2, tzinfo=UTC),
        app_version="1",
        **changes,
    )
    rater = Rater(rater_id="rater-001", name="rater-001", kind="human", created_at=rating.server_time)
    pictures = {image_id: Picture(content=png(number)) for number, image_id in enumerate(ids, 1)}
    return Whole(row=rating_id, prompt=prompt, task=task, rater=rater, rating=rating, pictures=pictures)


def test_whole_rows_keep_undos_repeats_and_chances(here: tuple[Workspace, Store]):
    workspace, store = here
    heard: list[str] = []
    pictures = [Picture(content=png(number)) for number in (1, 2)]
    rows = [
        *(Shown(row="images", prompt="a fox", picture=picture) for picture in pictures),
        whole("a1", "t1", "left"),
        whole("a2", "t1", None, voids="a1"),
        whole("a3", "t1", "right"),
        whole("a4", "t2", "left", repeats="t1"),
        whole("a5", "t3", "left", repeats="t9"),
        whole("a6", "t1", None, voids="a99"),
    ]
    take(store, workspace, rows, source="hitl")
    again = take(
        store, workspace, rows, source="hitl", on_refused=lambda each: heard.append(f"{each.row} {each.reason}")
    )
    assert [rating.rating_id for rating in store.ratings()] == ["a1", "a2", "a3", "a4"]
    assert [each.rating_id for each in store.comparisons()] == ["a3"]
    assert len(store.repeats()) == 1
    assert {task.propensity for task in store.tasks()} == {0.25}
    assert [rater.name for rater in store.raters()] == ["hitl rater-001"]
    assert heard == [
        "a5 repeats a task of which no rating is here",
        "a6 'a99' is not an answer of this rater to task t1",
    ]
    assert again.known == 4


def test_many_ratings_of_a_store_are_what_one_by_one_gives(tmp_path: Path):
    kept = []
    for name in ("one", "many"):
        _, store = a_workspace(tmp_path / name)
        with store:
            ratings = _some_ratings(store)
            outcomes: list[object] = []
            if name == "many":
                outcomes = list(store.add_ratings(ratings))
            else:
                for rating in ratings:
                    try:
                        outcomes.append(store.add_rating(rating))
                    except ConfigError as error:
                        outcomes.append(error)
            kept.append(([str(each) for each in outcomes], store.ratings(), store.comparisons()))
    assert kept[0] == kept[1]
    assert {"True", "False"} < set(kept[0][0])


def _some_ratings(store: Store) -> list[Rating]:
    tasks = [a_task(f"t{n}") for n in range(4)]
    fill(store, *tasks)
    first = a_rating(tasks[0], "ann", rating_id="00000000-0000-0000-0000-000000000001")
    undo = a_rating(tasks[0], "ann", None, voids=first.rating_id, rating_id="00000000-0000-0000-0000-000000000002")
    return [
        first,
        first,
        a_rating(tasks[0], "ann", "right", rating_id="00000000-0000-0000-0000-000000000003"),
        undo,
        a_rating(tasks[0], "ann", "tie", rating_id="00000000-0000-0000-0000-000000000004"),
        a_rating(tasks[1], "nobody", rating_id="00000000-0000-0000-0000-000000000005"),
        a_rating(tasks[2], "bob", "up", rating_id="00000000-0000-0000-0000-000000000006"),
        a_rating(tasks[3], "bob", "both_bad", rating_id="00000000-0000-0000-0000-000000000007"),
    ]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(
        st.one_of(
            st.text(min_size=1, max_size=40),
            st.sampled_from(
                ['"quoted"', "line\nbreak\r\n", "🦊🏳️‍🌈", "a\0b", "=cmd()", "x" * 10_000, "\ufeffbom", "it's; --"]
            ),
        ).filter(str.strip),
        min_size=1,
        max_size=20,
        unique=True,
    )
)
def test_odd_prompts_are_kept_as_they_are(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]):
    folder = tmp_path_factory.mktemp("odd")
    rows = [
        {"caption": text, "jpg_0": png(1), "jpg_1": png(2), "label_0": 1.0, "label_1": 0.0, "user_id": 1}
        for text in prompts
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    workspace, store = a_workspace(folder / "here")
    with store:
        taken, refused = bring_in(store, workspace, folder / "train.parquet")
        assert sorted(prompt.text for prompt in store.prompts()) == sorted(prompts)
        assert (taken.ratings, refused) == (len(prompts), [])
    with Store.rebuild(workspace) as store:
        assert sorted(each.prompt for each in store.comparisons()) == sorted(prompts)


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from data.imports import take as taking
from tests.imported import bring_in
from data.store import Store
from data.workspace import Workspace
taking._BATCH = 20
kill = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL))
with Store.open(Workspace(Path(sys.argv[1]))) as store:
    bring_in(
        store, Workspace(Path(sys.argv[1])), Path(sys.argv[2]), on_progress=lambda rows: kill.ident or kill.start()
    )
"""
"""By itself, some time after the first rows are in: another process could come too late."""


def test_killed_in_the_middle_and_run_again_gives_the_same(tmp_path: Path):
    rows = [
        {
            "caption": f"prompt {n // 4}",
            "jpg_0": png(n),
            "jpg_1": png(n + 1),
            "label_0": 1.0,
            "label_1": 0.0,
            "user_id": n % 7,
        }
        for n in range(200)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    facts = []
    for name, is_killed in (("whole", False), ("killed", True)):
        workspace, store = a_workspace(tmp_path / name)
        store.close()
        if is_killed:
            command = [sys.executable, "-c", KILLED, str(workspace.root), str(tmp_path / "train.parquet")]
            assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        with Store.open(workspace) as store:
            partly = len(store.ratings())
            assert (0 < partly < 200) if is_killed else partly == 0
            bring_in(store, workspace, tmp_path / "train.parquet")
            facts.append(
                (said(store), {task.task_id for task in store.tasks()}, {r.rating_id for r in store.ratings()})
            )
            assert all(workspace.read_image(image.image_id)[1] == "" for image in store.images())
    assert facts[0] == facts[1]
    assert sum(facts[0][0].values()) == 200
