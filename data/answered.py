"""Answers that stand, with what their rating kind derives from them: one form for every kind, to count and compare."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from data import RATING_KINDS
from data.agreement import Agreement, Kappa, Level, fleiss_kappa, krippendorff_alpha
from data.records import OVERALL, ImageValues, Outcome, Rating, Task, standing_ratings
from data.store import Store
from data.votes import Vote, Votes, as_votes, implied


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One screen that a rater answered or skipped."""

    rating: Rating
    task: Task
    is_skip: bool
    outcomes: Sequence[Outcome]
    values: Sequence[ImageValues]

    def places(self) -> list[float | None]:
        """Overall, for the images as they were shown: lower is better, None is worse than all that have a place. Empty
        where images were not compared.
        """
        for outcome in self.outcomes:
            places = {"a": (1.0, 2.0), "b": (2.0, 1.0), "tie": (1.0, 1.0)}[outcome.outcome]
            by_image = dict(zip((outcome.image_a, outcome.image_b), places, strict=True))
            return [by_image[image_id] for image_id in self.rating.image_ids]
        for found in self.values:
            if found.axis == OVERALL and len(found.image_ids) > 1:
                sign = -1.0 if found.levels else 1.0  # a high grade is a low place
                places = {
                    image_id: None if value is None else sign * value
                    for image_id, value in zip(found.image_ids, found.values, strict=True)
                }
                return [places[image_id] for image_id in self.rating.image_ids]
        return []

    def first_beats_last(self) -> bool | None:
        """Whether the picture shown first was put before the one shown last; None where neither was."""
        places = self.places()
        if not places or places[0] == places[-1]:
            return None
        first, last = (math.inf if place is None else place for place in (places[0], places[-1]))
        return first < last

    def tied_share(self) -> float | None:
        """Share of the pairs of images that were put equal; None where no two were compared."""
        pairs = [pair for pair in combinations(self.places(), 2) if pair != (None, None)]
        return sum(one == other for one, other in pairs) / len(pairs) if pairs else None


def answered(store: Store, round: int | None = None) -> list[Answered]:
    """All screens of a round, or of all, whose answer or skip stands, checks included, in order of arrival."""
    tasks = {task.task_id: task for task in store.tasks(round)}
    return [_answered(rating, tasks[rating.task_id]) for rating in standing_ratings(store.ratings(round))]


def _answered(rating: Rating, task: Task) -> Answered:
    kind = RATING_KINDS.load(rating.kind)
    images: dict[str, Any] = {"image_ids": task.image_ids, "displayed": rating.image_ids}
    return Answered(
        rating=rating,
        task=task,
        is_skip=kind.is_skip(rating.payload),
        outcomes=kind.outcomes(rating.payload, **images),
        values=kind.values(rating.payload, **images),
    )


def votes_of(said: Iterable[Answered]) -> Votes:
    """What the answers say of two images at a time. Checks and skips are left out.

    A ranking and the best of several stand for their pairs. Grades on the overall axis stand for the pairs of images
    that one rater graded for one prompt on one scale, by the last grade of each.
    """
    found: list[Vote] = []
    graded: dict[tuple[str, str, int], dict[str, int | None]] = defaultdict(dict)
    both_bad = 0
    for each in said:
        if each.task.purpose != "learn":
            continue
        prompt_id, rater_id = each.task.prompt_id, each.rating.rater_id
        for pair in each.outcomes:
            both_bad += pair.both_bad
            outcome = {"a": 1, "b": -1, "tie": 0}[pair.outcome]
            left, right = pair.image_a, pair.image_b
            if pair.left == "b":
                left, right, outcome = right, left, -outcome
            found.append(Vote(prompt_id, left, right, outcome, rater_id, is_side_by_side=True))
        for told in each.values:
            if told.axis != OVERALL:
                continue
            places = dict(zip(told.image_ids, told.values, strict=True))
            if told.levels is None:
                found += implied(prompt_id, rater_id, places)
            else:  # a high grade is a low place
                graded[rater_id, prompt_id, told.levels] |= {name: -(value or 0) for name, value in places.items()}
    for (rater_id, prompt_id, _), places in graded.items():
        found += implied(prompt_id, rater_id, places)
    return as_votes(found, both_bad=both_bad)


def agreements(said: Iterable[Answered]) -> dict[str, Agreement]:
    """Alpha by what was asked: which of two is better, which of several is best, places, or grades on each axis.

    Whom two raters prefer and which is best are names; places and grades are in an order. Checks are left out: gold is
    meant to be easy.
    """
    return {
        name: krippendorff_alpha(units.values(), level, clusters=[task_id for task_id, _ in units])
        for (name, level), units in _units(said).items()
    }


def kappas(said: Iterable[Answered]) -> dict[str, Kappa]:
    """Fleiss' kappa of what are names: which of two is better, which of several is best, good or bad."""
    return {
        name: fleiss_kappa(units.values(), clusters=[task_id for task_id, _ in units])
        for (name, level), units in _units(said).items()
        if level == "nominal"
    }


_Units = dict[tuple[str, str], list[Any]]
"""By task and image: the values that raters gave."""


def _units(said: Iterable[Answered]) -> dict[tuple[str, Level], _Units]:
    """By what was asked, and its level; checks left out."""
    judged: dict[tuple[str, Level], _Units] = defaultdict(lambda: defaultdict(list))
    for each in said:
        if each.task.purpose != "learn":
            continue
        for found in each.outcomes:
            value = "both bad" if found.both_bad else found.outcome
            judged["Pairs", "nominal"][each.task.task_id, ""].append(value)
        for found in each.values:
            for name, level, image_id, value in _judged(found):
                judged[name, level][each.task.task_id, image_id].append(value)
    return dict(sorted(judged.items()))


def _judged(found: ImageValues) -> Iterable[tuple[str, Level, str, Any]]:
    """Each judgement as: what it is called, its level, the image it is about, its value."""
    ranked: Mapping[str, int | None] = dict(zip(found.image_ids, found.values, strict=True))
    for image_id, value in ranked.items():
        if found.levels == 2:
            yield "Good or bad", "nominal", image_id, value
        elif found.levels:
            yield f"Grades: {found.axis}", "ordinal", image_id, value
        elif None not in ranked.values():
            yield "Places", "ordinal", image_id, value
        elif value is not None:
            yield "Best", "nominal", "", image_id
