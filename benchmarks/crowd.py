"""A store with the ratings of many simulated raters of known quality, written past the web: for the board to show."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from apps.session import new_rater
from apps.simulated import Judgement, SimulatedRater
from data import RATING_KINDS
from data.records import Image, Prompt, Rater, Rating, Task
from data.store import Store

CAREFUL, COIN, LEFT, TURNED, HASTY = "careful", "coin-tosser", "left-clicker", "turned round", "hasty"
_GAPS_S = {HASTY: (0.15, 0.4)}
_USUAL_GAP_S = (1.2, 7.0)


def crowd(size: int, *, seed: int = 0) -> list[SimulatedRater]:
    """One careful rater, usual ones, and, as far as `size` goes, one of each kind that the board should point at."""
    usual = {"seed": seed, "taste_weight": 0.5, "noise": 0.2, "tie_width": 0.06}
    odd = [
        SimulatedRater(name=CAREFUL, seed=seed, taste_weight=0.5, noise=0.05, tie_width=0.05),
        SimulatedRater(name=COIN, careless=True, **usual),
        SimulatedRater(name=LEFT, side_bias=0.9, **usual),
        SimulatedRater(name=TURNED, adversarial=True, **usual),
        SimulatedRater(name=HASTY, **{**usual, "noise": 0.5}),
    ]
    rng = np.random.default_rng(seed)
    plain = [
        SimulatedRater(name=f"rater {number + 1}", **{**usual, "noise": float(rng.uniform(0.12, 0.3))})
        for number in range(size - len(odd))
    ]
    return [*odd, *plain][:size]


class Crowd:
    """Raters in a store, and what they think of its images."""

    def __init__(self, store: Store, raters: Sequence[SimulatedRater], *, seed: int = 0) -> None:
        self.store = store
        self.rng = np.random.default_rng(seed)
        self.judged: dict[str, Judgement] = {}
        self.raters: list[tuple[Rater, SimulatedRater]] = []
        for simulated in raters:
            rater = new_rater(simulated.name, "simulated")
            store.add_rater(rater)
            self.raters.append((rater, simulated))

    def add_tasks(
        self, round: int, prompts: Sequence[Prompt], images: Iterable[Image], tasks: Sequence[Task], *, checks: int = 0
    ) -> list[Task]:
        """The tasks, the first `checks` of them once more as repeats, and as many as gold, all of whom are returned."""
        self.store.start_round(round, "sha")
        self.store.add_prompts(prompts)
        drawn = list(images)
        self.store.add_images(drawn)
        for image in drawn:
            correctness, taste = self.rng.random(2)
            self.judged[image.image_id] = Judgement(correctness=float(correctness), taste=float(taste))
        everybody = len(self.raters)
        repeats = [
            replace(task, task_id=f"{task.task_id}-again", purpose="repeat", repeats=task.task_id, overlap=everybody)
            for task in tasks[:checks]
        ]
        gold = [
            replace(task, task_id=f"{task.task_id}-gold", purpose="gold", worse=task.image_ids[1], overlap=everybody)
            for task in tasks[-checks:]
            if checks
        ]
        self.store.add_tasks([*tasks, *repeats, *gold])
        return [*tasks, *repeats, *gold]

    def rate(self, tasks: Sequence[Task], *, begin: datetime, hours: float) -> int:
        """Every task by as many raters as its overlap says, in an order of chance, over so many hours; how many."""
        turns = [
            (task, place)
            for task in tasks
            for place in self.rng.permutation(len(self.raters))[: task.overlap]
            if task.purpose == "learn"
        ]
        first_order: dict[tuple[str, str], tuple[str, ...]] = {}
        first_answers = {(task.task_id, place) for task, place in turns}
        turns += [
            (task, place)
            for task in tasks
            if task.purpose != "learn"
            for place in range(len(self.raters))
            if task.purpose == "gold" or (task.repeats, place) in first_answers
        ]
        # People come in waves: the pace rises and falls.
        moments = np.sort(self.rng.beta(1.6, 1.3, size=len(turns)) * hours)
        for (task, place), hour in zip(turns, moments, strict=True):
            rater, simulated = self.raters[place]
            shown = task.image_ids if self.rng.random() < 0.5 else task.image_ids[::-1]
            if task.repeats:
                shown = first_order[task.repeats, rater.rater_id][::-1]
            first_order[task.task_id, rater.rater_id] = shown
            self.store.add_rating(self._rating(rater, simulated, task, shown, begin + timedelta(hours=float(hour))))
        return len(turns)

    def _rating(
        self, rater: Rater, simulated: SimulatedRater, task: Task, shown: tuple[str, ...], at: datetime
    ) -> Rating:
        kind = RATING_KINDS.load(task.kind)
        judged = [self.judged[image_id] for image_id in shown]
        if task.purpose == "gold":  # an obvious contrast
            judged = [Judgement(correctness=float(image_id != task.worse) * 2, taste=0.5) for image_id in shown]
        payload = simulated.answer(kind, task.task_id, shown, judged)
        if self.rng.random() < 0.04 and kind.screen == "choose":
            payload |= {"flags": [["artefact"], []], "points": [[[0.3, 0.6]], []], "note": "an edge looks torn"}
        low, high = _GAPS_S.get(simulated.name, _USUAL_GAP_S)
        dwell_s = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        return Rating(
            rating_id=simulated.rating_id(task.task_id),
            task_id=task.task_id,
            rater_id=rater.rater_id,
            kind=task.kind,
            payload=payload,
            image_ids=shown,
            dwell_ms=round(1000 * dwell_s),
            client_time=at.isoformat(),
            server_time=at,
            app_version="0.1.0",
            input_device="keyboard",
            shown_as="original",
        )
