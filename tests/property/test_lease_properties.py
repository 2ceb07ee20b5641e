"""Raters who come, go, die and overlap: nobody is handed what is taken or seen, and in the end all is rated."""

import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from data.assignment import REPEAT_AFTER
from data.records import Offer, Task
from data.store import Store
from tests.facts import a_rater, a_rating, a_store, a_task

LEASE_S = 60
RATERS = tuple("ann bob eve may zoe".split())
COUNTED = tuple(a_task(f"t{number:02d}", overlap=1 + number % 3) for number in range(16))
CHECKS = (
    *(replace(task, task_id=f"{task.task_id}+", purpose="repeat", repeats=task.task_id) for task in COUNTED[:3]),
    *(replace(task, purpose="gold", worse=task.image_ids[0]) for task in (a_task("g0"), a_task("g1"))),
)

moves = st.lists(
    st.tuples(
        st.sampled_from(("ask", "ask", "answer", "answer", "answer", "skip", "leave", "die", "late", "wait")),
        st.sampled_from(RATERS),
        st.integers(1, 5),
    ),
    max_size=80,
)


@dataclass(slots=True)
class Rater:
    """What a page knows: the tasks on it, in order, and those of a page that died."""

    name: str
    held: dict[str, Offer] = field(default_factory=dict)
    lost: dict[str, Offer] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    """Answered or skipped."""
    shown: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class World:
    """The store, a clock, and the oracle: who holds what until when, and who answered what, in the plainest way."""

    store: Store
    now: datetime
    raters: dict[str, Rater]
    until: dict[tuple[str, str], datetime] = field(default_factory=dict)
    answered: dict[str, set[str]] = field(default_factory=dict)

    def taken(self, task: Task, but: str) -> int:
        """How many others have answered the task or hold it now."""
        answered = self.answered.get(task.task_id, set())
        holders = {
            name for (task_id, name), until in self.until.items() if task_id == task.task_id and until > self.now
        }
        mine = {name for name in holders if task.task_id in self.raters[name].seen}
        return len(answered) + len(holders - mine - answered - {but})

    def ask(self, rater: Rater, limit: int) -> None:
        offers = self.store.lease(rater.name, limit=limit, lease_s=LEASE_S, now=self.now)
        assert len({offer.task.task_id for offer in offers}) == len(offers) <= limit
        for offer in offers:
            self.check(rater, offer)
        for offer in offers:
            rater.held[offer.task.task_id] = offer
            self.until[offer.task.task_id, rater.name] = self.now + timedelta(seconds=LEASE_S)

    def check(self, rater: Rater, offer: Offer) -> None:
        task = offer.task
        assert task.task_id not in rater.seen
        assert sorted(offer.image_ids) == sorted(task.image_ids)
        if task.purpose == "learn":
            assert self.taken(task, rater.name) < task.overlap
        if task.repeats:
            assert len(rater.seen) - 1 - rater.seen.index(task.repeats) >= REPEAT_AFTER
            assert offer.image_ids == rater.shown[task.repeats][::-1]

    def answer(self, rater: Rater, offers: dict[str, Offer], choice: str) -> None:
        if not offers:
            return
        task_id, offer = next(iter(offers.items()))
        del offers[task_id]
        self.until.pop((task_id, rater.name), None)
        rating = a_rating(offer.task, rater.name, choice, image_ids=offer.image_ids, server_time=self.now)
        assert self.store.add_rating(rating) == (task_id not in rater.seen)
        if task_id not in rater.seen:
            rater.seen.append(task_id)
            rater.shown[task_id] = offer.image_ids
            if choice != "skip":
                self.answered.setdefault(task_id, set()).add(rater.name)

    def leave(self, rater: Rater) -> None:
        """The page is closed and says so."""
        self.store.release(rater.name, rater.held)
        for task_id in rater.held:
            self.until.pop((task_id, rater.name), None)
        rater.held.clear()

    def die(self, rater: Rater) -> None:
        """The page is gone without a word; what was on it may come in late."""
        rater.lost |= rater.held
        rater.held.clear()

    def wait(self, seconds: float) -> None:
        """A page whose leases have run out lets them go, as the browser does when the server no longer offers them."""
        self.now += timedelta(seconds=seconds)
        for rater in self.raters.values():
            rater.held = {  # of what came in late from a page that had died there is no lease any more
                task_id: offer
                for task_id, offer in rater.held.items()
                if self.until.get((task_id, rater.name), self.now) > self.now
            }


AGAIN = [("ask", "ann", 1), ("die", "ann", 1), ("ask", "ann", 1), ("late", "ann", 1), ("ask", "ann", 1)]


@pytest.mark.long
@example(AGAIN)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moves)
def test_raters_who_come_go_die_and_overlap(history: list[tuple[str, str, int]]):
    with tempfile.TemporaryDirectory() as folder:
        _, store = a_store(Path(folder), *COUNTED, *CHECKS)
        with store:
            for name in RATERS[2:]:
                store.add_rater(a_rater(name))
            world = World(store, datetime.now(UTC), {name: Rater(name) for name in RATERS})
            for action, name, number in history:
                rater = world.raters[name]
                world.wait(1)
                match action:
                    case "ask":
                        world.ask(rater, number)
                    case "answer":
                        world.answer(rater, rater.held, "left")
                    case "skip":
                        world.answer(rater, rater.held, "skip")
                    case "leave":
                        world.leave(rater)
                    case "die":
                        world.die(rater)
                    case "late":
                        world.answer(rater, rater.lost, "left")
                    case "wait":
                        world.wait(LEASE_S * number / 3)
            finish(world)


def finish(world: World) -> None:
    """All pages die; three who never skip come and rate what is left, by turns: nothing waits for the dead."""
    for rater in world.raters.values():
        world.die(rater)
    world.wait(LEASE_S + 1)
    fresh = [Rater(f"fresh {number}") for number in range(3)]
    for rater in fresh:
        world.store.add_rater(a_rater(rater.name))
        world.raters[rater.name] = rater
    idle = 0
    while idle < len(fresh):
        for rater in fresh:
            world.ask(rater, 2)
            idle = 0 if rater.held else idle + 1
            world.answer(rater, rater.held, "right")
    progress = world.store.progress(1, now=world.now)
    assert progress.is_complete
    assert progress.done == progress.needed == sum(task.overlap for task in COUNTED)
    assert all(len(world.answered[task.task_id]) >= task.overlap for task in COUNTED)
    assert not {found.task_id for found in world.store.comparisons()} & {task.task_id for task in CHECKS}
