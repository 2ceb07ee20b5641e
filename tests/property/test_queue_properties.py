"""What a round's queue counts as answers come is what one would count anew from all the answers that stand."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from data.assignment import ACTIVE_S, Answer, Leases, RoundQueue, displayed_order
from data.records import Task

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
RATERS = ("ann", "bob", "cleo")
TASKS = [
    *(
        Task(task_id=f"t{n}", round=1, kind="pairwise", prompt_id="p", image_ids=(f"a{n}", f"b{n}"), overlap=1 + n % 3)
        for n in range(4)
    ),
    Task(
        task_id="gold",
        round=1,
        kind="pairwise",
        prompt_id="p",
        image_ids=("a0", "b1"),
        overlap=2,
        purpose="gold",
        worse="a0",
    ),
    Task(
        task_id="studied",
        round=0,
        kind="pairwise",
        prompt_id="p",
        image_ids=("a0", "b0"),
        overlap=2,
        purpose="judge",
        models=("new", "old"),
        study="which",
    ),
]
"""Four that a round waits for, one of gold, one of a study."""

steps = st.lists(
    st.tuples(
        st.sampled_from(TASKS),
        st.sampled_from(RATERS),
        st.sampled_from(["left", "skip", "undo", "lease", "drop"]),
        st.integers(0, 400),
    ),
    max_size=30,
)


@given(steps, st.sets(st.sampled_from([task.task_id for task in TASKS])))
def test_counting_as_answers_come_is_counting_them_all_at_the_end(
    happened: list[tuple[Task, str, str, int]], withdrawn: set[str]
):
    queue, leases, now = RoundQueue(round=1, tasks=TASKS, withdrawn=withdrawn), Leases(), NOW
    stands: dict[tuple[str, str], str] = {}
    last: dict[str, datetime] = {}
    held: dict[tuple[str, str], datetime] = {}
    for task, rater_id, what, wait_s in happened:
        now += timedelta(seconds=wait_s)
        key = (task.task_id, rater_id)
        if what in ("left", "skip"):
            queue.note(*key, Answer(is_skip=what == "skip", at=now, displayed=displayed_order(task, rater_id)))
            stands[key], last[rater_id] = what, now
        elif what == "undo":
            queue.note(*key, None)
            stands.pop(key, None)
        elif what == "lease":
            leases.hold(*key, now, 300)
            held[key] = now + timedelta(seconds=300)
        else:
            leases.drop(*key)
            held.pop(key, None)

    def said(task: Task, what: str) -> int:
        return sum(stands.get((task.task_id, rater_id)) == what for rater_id in RATERS)

    holders = {key[1] for key, until in held.items() if now < until}
    active = holders | {rater_id for rater_id, at in last.items() if at > now - timedelta(seconds=ACTIVE_S)}
    counted = [task for task in TASKS if task.purpose == "learn"]
    slots = skipped = done = 0
    for task in counted:
        answers = min(said(task, "left"), task.overlap)
        done += answers
        if task.task_id in withdrawn:
            slots += answers
            continue
        slots += task.overlap
        could = sum(rater_id in active and (task.task_id, rater_id) not in stands for rater_id in RATERS)
        skipped += min(said(task, "skip"), max(0, task.overlap - said(task, "left") - could))
    progress = queue.progress(leases, now=now)
    assert (progress.done, progress.needed, progress.skipped) == (done, slots - skipped, skipped)
    assert progress.checks == said(TASKS[-2], "left")
    studied = min(said(TASKS[-1], "left"), 2)
    assert (progress.studied, progress.to_study) == (studied, studied if "studied" in withdrawn else 2)
    for rater_id in RATERS:
        assert queue.answered_by(rater_id) == sum(
            what == "left" and who == rater_id for (_, who), what in stands.items()
        )
        offered = [task.task_id for task in queue.open_to(rater_id, leases, limit=10, now=now)]
        expected = [
            task.task_id
            for task in [*counted, TASKS[-1]]
            if task.task_id not in withdrawn
            and (task.task_id, rater_id) not in stands
            and said(task, "left") < task.overlap
            and (
                now < held.get((task.task_id, rater_id), now)
                or said(task, "left")
                + sum(
                    now < held.get((task.task_id, other), now) and (task.task_id, other) not in stands
                    for other in RATERS
                )
                < task.overlap
            )
        ]
        assert sorted(set(offered) - {"gold"}) == sorted(expected)
        alone = queue.open_to(rater_id, leases, limit=10, now=now, studies_only=True)
        assert [task.task_id for task in alone] == [name for name in expected if name == "studied"]
