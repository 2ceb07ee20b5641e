"""What holds for every history of ratings, whatever was answered, undone, skipped and sent twice."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from data.rating_kinds.pairwise import PAIRWISE
from data.records import Image, Prompt, Rating, Task
from data.store import Store
from data.workspace import Workspace
from tests.facts import a_rater, a_rating, a_store, a_task, everything, image_id

SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TASKS = tuple(a_task(f"task{number}", overlap=2) for number in range(3))
RATERS = ("ann", "bob")
CHOICES = tuple(control.choice for control in PAIRWISE.controls)

texts = st.text(min_size=1, max_size=30).filter(str.strip)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
prompts = st.builds(Prompt.of, texts, task=st.text(max_size=5), split=st.sampled_from(("train", "heldout")))

steps = st.lists(
    st.tuples(
        st.sampled_from(("rate", "rate", "undo", "again", "reopen")),
        st.sampled_from(TASKS),
        st.sampled_from(RATERS),
        st.sampled_from(CHOICES),
        st.booleans(),
    ),
    max_size=12,
)


@given(st.sampled_from(CHOICES))
def test_swapping_the_sides_flips_the_label(choice: str):
    """The same key on mirrored sides names the other image; no preference stays no preference."""
    shown = PAIRWISE.outcomes({"choice": choice}, image_ids=("x", "y"), displayed=("x", "y"))
    mirrored = PAIRWISE.outcomes({"choice": choice}, image_ids=("x", "y"), displayed=("y", "x"))
    flip = {"a": "b", "b": "a", "tie": "tie"}
    assert [flip[found.outcome] for found in shown] == [found.outcome for found in mirrored]
    assert [found.both_bad for found in shown] == [found.both_bad for found in mirrored]


@given(st.sampled_from(("left", "right")), st.booleans())
def test_the_winner_is_the_image_that_was_on_the_side_pressed(choice: str, is_swapped: bool):
    displayed = ("y", "x") if is_swapped else ("x", "y")
    (found,) = PAIRWISE.outcomes({"choice": choice}, image_ids=("x", "y"), displayed=displayed)
    assert {"a": found.image_a, "b": found.image_b}[found.outcome] == displayed[("left", "right").index(choice)]


@pytest.mark.long
@SLOW
@given(st.lists(prompts, min_size=1, max_size=4, unique_by=lambda prompt: prompt.prompt_id), json_values, json_values)
def test_whatever_goes_in_comes_out(given_prompts: list[Prompt], provenance: Any, more: Any):
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        images = [
            Image(
                image_id=image_id((number, side)),
                prompt_id=prompt.prompt_id,
                round=number,
                width=64,
                height=48,
                provenance={"any": provenance},
            )
            for number, prompt in enumerate(given_prompts)
            for side in "ab"
        ]
        tasks = [
            Task(
                task_id=f"{number}",
                round=number,
                kind="pairwise",
                prompt_id=prompt.prompt_id,
                image_ids=(image_id((number, "a")), image_id((number, "b"))),
                propensity=1 / (number + 3),
            )
            for number, prompt in enumerate(given_prompts)
        ]
        rating = a_rating(tasks[0], "ann", "left", payload={"choice": "left", "more": more})
        with Store.open(workspace, create=True) as store:
            store.add_prompts(given_prompts)
            store.add_images(images)
            store.add_tasks(tasks)
            store.add_rater(a_rater("ann"))
            store.add_rating(rating)
        with Store.open(workspace) as store:
            assert store.prompts() == given_prompts
            assert store.images() == images
            assert store.tasks() == tasks
            assert store.ratings() == [rating]
            assert store.comparisons()[0].prompt == given_prompts[0].text
            before = everything(store)
        with Store.rebuild(workspace) as store:
            assert everything(store) == before


class _Expected:
    """The oracle: which answers stand, kept in a dict in the plainest way."""

    def __init__(self) -> None:
        self.standing: dict[tuple[str, str], Rating] = {}
        self.sent: list[Rating] = []

    def compared(self) -> dict[tuple[str, str], str]:
        found = {}
        for key, rating in self.standing.items():
            choice = rating.payload["choice"]
            if choice in ("left", "right"):
                winner = rating.image_ids[("left", "right").index(choice)]
                task = next(task for task in TASKS if task.task_id == key[0])
                found[key] = "ab"[task.image_ids.index(winner)]
            elif choice != "skip":
                found[key] = "tie"
        return found


@SLOW
@given(steps)
def test_any_history_matches_a_plain_dict_and_its_own_journal(history: list[tuple[Any, ...]]):
    expected = _Expected()
    with tempfile.TemporaryDirectory() as folder:
        workspace, store = a_store(Path(folder), *TASKS)
        try:
            for action, task, rater, choice, is_swapped in history:
                key = (task.task_id, rater)
                if action == "rate":
                    image_ids = task.image_ids[::-1] if is_swapped else task.image_ids
                    rating = a_rating(task, rater, choice, image_ids=image_ids)
                    assert store.add_rating(rating) == (key not in expected.standing)
                    if key not in expected.standing:
                        expected.standing[key] = rating
                        expected.sent.append(rating)
                elif action == "undo" and key in expected.standing:
                    undo = a_rating(task, rater, None, voids=expected.standing.pop(key).rating_id)
                    assert store.add_rating(undo)
                    expected.sent.append(undo)
                elif action == "again" and expected.sent:
                    assert not store.add_rating(expected.sent[-1])
                elif action == "reopen":
                    store.close()
                    store = Store.open(workspace)
            assert store.ratings() == expected.sent
            found = {(row.task_id, row.rater_id): row.outcome for row in store.comparisons()}
            assert found == expected.compared()
            answers = [rating for rating in expected.standing.values() if rating.payload["choice"] != "skip"]
            assert store.progress(1).done == len(answers)
            snapshot = store.write_snapshot(workspace.root / "before.parquet", 1)
            before = everything(store)
        finally:
            store.close()
        with Store.rebuild(workspace) as store:
            assert everything(store) == before
            assert store.write_snapshot(workspace.root / "after.parquet", 1).sha256 == snapshot.sha256
