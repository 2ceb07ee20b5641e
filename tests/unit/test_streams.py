"""What is read part by part is what is read at once, whatever else is asked meanwhile, of a store and of a copy."""

from pathlib import Path
from typing import Any

import pytest

from data.store import Store
from data.streams import Selection, Streams
from hitl.core.errors import StoreError
from tests.fixtures.rated import COMPARISONS, RATINGS, Rated

NAMES = ("prompts", "images", "tasks", "raters", "ratings", "answers", "pairs", "groups")


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Rated:
    return Rated(tmp_path_factory.mktemp("rated"))


def everything(streams: Streams) -> dict[str, list[dict[str, Any]]]:
    found = {name: [row for batch in getattr(streams, name)() for row in batch.to_pylist()] for name in NAMES}
    for count_ties in (True, False):
        batches = streams.votes(count_ties=count_ties)
        found[f"votes {count_ties}"] = [row for batch in batches for row in batch.to_pylist()]
    return found


@pytest.mark.long
@pytest.mark.parametrize("most", [1, 4, 7])
def test_in_parts_as_at_once(most: int, rated: Rated, monkeypatch: pytest.MonkeyPatch):
    with Store.open(rated.workspace) as store:
        at_once = everything(store.streams(Selection()))
        monkeypatch.setattr("data.streams._RATINGS_AT_ONCE", most)
        monkeypatch.setattr("data.streams._PAIRS_AT_ONCE", most)
        in_parts = everything(store.streams(Selection()))
        assert len([*store.streams(Selection()).ratings()]) == -(-15 // most)
    assert in_parts == at_once
    assert {name: len(in_parts[name]) for name in ("ratings", "answers", "pairs")} == {
        "ratings": 15,
        "answers": RATINGS,
        "pairs": COMPARISONS,
    }


def test_other_questions_on_the_same_thread_disturb_nothing(rated: Rated, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data.streams._RATINGS_AT_ONCE", 4)
    with Store.open(rated.workspace) as store:
        found = []
        for batch in store.streams(Selection(has_names=True)).ratings():
            found += batch["rating_id"].to_pylist()
            assert len(store.images()) == 16
        assert found == [rating.rating_id for rating in store.ratings()]


def test_a_copy_is_read_as_the_store_is(rated: Rated, tmp_path: Path):
    with Store.open(rated.workspace) as store:
        wanted = everything(store.streams(Selection()))
        store.copy_to(tmp_path / "copy.duckdb")
    with Store.open_snapshot(tmp_path / "copy.duckdb") as copy:
        assert everything(copy.streams(Selection())) == wanted


def test_a_stream_that_is_left_early_keeps_no_file_open_and_a_closed_store_has_none(rated: Rated):
    with Store.open(rated.workspace) as store:
        next(store.streams(Selection()).pairs())
    with pytest.raises(StoreError, match="closed"):
        next(store.streams(Selection()).prompts())
    Store.open(rated.workspace).close()


def test_names_with_quotes_are_no_sql(rated: Rated):
    with Store.open(rated.workspace) as store:
        selection = Selection(rater_ids=("' OR 'x' = 'x", "bob"), lost=("it's", "]; DROP TABLE ratings; --"))
        assert {row["rater"] for batch in store.streams(selection).answers() for row in batch.to_pylist()} == {
            "rater-002"
        }
        assert len(store.ratings()) == 15
