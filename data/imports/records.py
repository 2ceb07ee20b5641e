"""What a reader makes of a file's rows, whatever the format: what somebody said of some pictures, or why not."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from data.records import OVERALL, Prompt, Rater, Rating, Task


class NotTaken(Exception):
    """Why a row cannot be taken, as words that follow "row 17: "."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that cannot be taken."""

    row: str
    """Where it stands: `train.json row 17`."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Where a picture's bytes are: given, in a file, or under an id that this workspace may know."""

    content: bytes | None = field(default=None, repr=False)
    path: Path | None = None
    image_id: str | None = None
    model: str = ""
    """What drew it, where the format says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one rater said of the pictures of one prompt."""

    row: str
    prompt: str
    pictures: tuple[Picture, ...]
    kind: str
    """Of `data.RATING_KINDS`."""
    payload: dict[str, Any]
    """As the kind has it, for the pictures in the order given here."""
    rater: str = ""
    """The source's name or number for the rater; empty where it has none."""
    task: str = ""
    split: str = ""
    """Of the prompt: the source's own word for it; empty where it has none."""
    is_order_known: bool = False
    """Whether the pictures stand in the order in which the rater saw them."""
    at: datetime | None = None
    dwell_ms: int = 0
    task_id: str = ""
    """That of the workspace it comes from: a task of that id here, which shows these images, was rated here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A rating of our own complete form, with its task and rater: nothing of it is made up."""

    row: str
    prompt: Prompt
    task: Task
    rater: Rater
    rating: Rating
    pictures: dict[str, Picture]
    """By image id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture with its prompt that nobody rated yet."""

    row: str
    prompt: str
    picture: Picture
    task: str = ""
    split: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptAlone:
    """A prompt of our own complete form, whether or not anything was drawn for it."""

    row: str
    prompt: Prompt


Item = Judged | Whole | Shown | PromptAlone | Refused


def preference(choice: str, **about: Any) -> Judged:
    """A pair: `left`, `right`, `tie` or `both_bad`, for the pictures in the order given."""
    return Judged(kind="pairwise", payload={"choice": choice}, **about)


def ranked(ranks: list[float], **about: Any) -> list[Judged]:
    """Ranks for any number of pictures (lower is better, equal is a tie): a pair, a ranking of 4 to 9, else all pairs.

    Raises:
        NotTaken: not one rank for each picture, or fewer than two pictures.
    """
    pictures = about.pop("pictures")
    if len(ranks) != len(pictures) or len(ranks) < 2:
        raise NotTaken(f"has {len(ranks)} ranks for {len(pictures)} images; a rank for each of two or more is needed")
    if len(ranks) in range(4, 10):
        places = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
        payload = {"ranks": [places[rank] for rank in ranks]}
        return [Judged(kind="ranking", payload=payload, pictures=pictures, **about)]
    return [
        preference(_better(ranks[i], ranks[j]), pictures=(pictures[i], pictures[j]), **about)
        for i in range(len(ranks))
        for j in range(i + 1, len(ranks))
    ]


def _better(first: float, second: float) -> str:
    if first == second:
        return "tie"
    return "left" if first < second else "right"


def graded(given: dict[str, dict[str, int]], **about: Any) -> Judged:
    """Grades of 1 to 5 of each picture, by its name (in the order of the pictures) and by what was asked.

    The answer to the one question that was asked of every picture is the overall grade; of several one is called so.

    Raises:
        NotTaken: none is, or not every picture has every grade.
    """
    if all(len(grades) == 1 for grades in given.values()):
        axes = {OVERALL: [grade for grades in given.values() for grade in grades.values()]}
    else:
        asked = {question: None for grades in given.values() for question in grades}
        by_name = {question.lower(): question for question in asked}
        if OVERALL not in by_name or any(grades.keys() != asked.keys() for grades in given.values()):
            raise NotTaken(
                f"grades by {', '.join(asked)}; one question called {OVERALL}, and each question for each image, "
                "are expected"
            )
        axes = {name: [grades[question] for grades in given.values()] for name, question in by_name.items()}
    return Judged(kind="grades", payload={"grades": axes}, **about)
