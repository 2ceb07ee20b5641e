"""The facts that the store keeps and the answers it gives, as frozen dataclasses.

Times are aware datetimes in UTC. Nothing here knows of a database, a web page or a tensor.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from hitl.core.errors import ConfigError

Side = Literal["a", "b"]
RaterKind = Literal["human", "simulated"]
Role = Literal["rater", "researcher", "admin"]
Purpose = Literal["learn", "repeat", "gold", "judge"]
PracticeOutcome = Literal["finished", "skipped"]
InputDevice = Literal["keyboard", "mouse", "touch"]
ScreenSize = Literal["small", "large"]
ShownAs = Literal["original", "display"]

OVERALL = "overall"
"""The axis that the reward model learns from."""
ALIGNMENT = "alignment"
"""The axis that asks how far an image fits its text."""

ROLES: tuple[Role, ...] = ("rater", "researcher", "admin")
"""Each may do what those before it may: rate; see the board; say who else may."""

IMPORTED = "imported"
"""The policy of tasks that people elsewhere were asked. They are in round 0, are learned from, and nobody is asked."""
FROM_FOLDER = "folder"
"""The policy of tasks of pictures that were brought in without ratings. They are in round 0, and people are asked until
the first round begins."""

FINISHED = "finished"
"""The round state that closes a round; every other state is free text of the round loop."""


def prompt_id_of(text: str) -> str:
    """The id of a prompt: the same text is the same prompt in every workspace."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text that images are drawn for."""

    prompt_id: str
    """First 16 hex digits of the text's sha256."""
    text: str
    task: str = ""
    """Tag of the skill it asks for, such as `colour` or `count`; only used to report by."""
    split: str = "train"
    """`train` or `held_out`: held-out prompts are never trained on."""

    @classmethod
    def of(cls, text: str, *, task: str = "", split: str = "train") -> "Prompt":
        """The prompt of that text, its id worked out.

        Raises:
            ConfigError: the text is blank or is not text that can be stored.
        """
        if not text.strip():
            raise ConfigError("A prompt is empty.", hint="Remove the empty line from the list of prompts, or fill it.")
        try:
            prompt_id = prompt_id_of(text)
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"A prompt holds a character that is not valid Unicode at position {error.start}: {text!a}.",
                hint="Save the list of prompts as UTF-8 text.",
            ) from error
        return cls(prompt_id=prompt_id, text=text, task=task, split=split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One drawn picture. The file is found by its id: see `Workspace.image_path`."""

    image_id: str
    """sha256 of the PNG file's bytes, in hex."""
    prompt_id: str
    round: int
    width: int
    height: int
    provenance: dict[str, Any] = field(default_factory=dict)
    """All that is needed to draw it again: model, checkpoint, seed, steps, guidance, versions. JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawnImage:
    """An image that cannot be shown any more. Tasks that show it are not asked, and nothing is learned from it."""

    image_id: str
    reason: str
    """What is wrong with its file, after the words "its file"."""
    withdrawn_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One screen to be rated: a prompt, its images, a rating kind."""

    task_id: str
    round: int
    kind: str
    prompt_id: str
    image_ids: tuple[str, ...]
    """In canonical order: the first is `a`, the second `b`, whatever side a rater sees them on."""
    overlap: int = 1
    """By how many raters it is to be rated."""
    policy: str = "random"
    """How this pair was chosen among all possible ones."""
    propensity: float = 1.0
    """With what probability that choice fell on this pair; needed to correct for adaptive choice."""
    purpose: Purpose = "learn"
    """`learn`, or what nothing learns from and no round waits for. A check of the rater: a `repeat` shows a task again
    in another order, and of a `gold` task it is known beforehand which image is worse, or better. A judgement of the
    models: a `judge` task shows images of two of them, drawn for one prompt."""
    repeats: str | None = None
    """Of a repeat: the id of the task that it shows again."""
    worse: str | None = None
    """Of a gold task: the id of the image that anybody would put last, or find bad by itself."""
    better: str | None = None
    """Of a gold task that asks for the best image alone: the id of the one that anybody would choose."""
    models: tuple[str, str] | None = None
    """Of a judge task: what drew its two images, in their order; the first is judged by the second."""
    study: str | None = None
    """Of a judge task: the name of the study that asks. None: it is mixed into its round's tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """A person, or a simulated one, who rates."""

    rater_id: str
    name: str
    kind: RaterKind
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """That a rater agreed to what is kept of them and what for."""

    rater_id: str
    version: str
    """Of the text: a hash, so that another text is another version."""
    language: str
    """Of the text, as the page asked for it: `en`."""
    text: str
    """As it was shown."""
    given_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How a rater may come in, and what they may do then. A rater who only gave a name has the defaults."""

    rater_id: str
    role: Role = "rater"
    is_disabled: bool = False
    password_hash: str | None = None
    """None when there never was one, empty when it was erased."""
    sessions: int = 0
    """Raised to end all sessions at once: a session that was opened under another number is none."""

    def may(self, role: Role) -> bool:
        return not self.is_disabled and ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """Lets one person in, once. Who has the token has the right; the store keeps its hash alone."""

    invite_id: str
    token_hash: str
    """sha256 of the token, in hex. The token is random, so that no slower hash is needed."""
    role: Role
    rater_id: str | None
    """Whom it lets in; None for whoever comes with it and gives a name."""
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_by: str | None = None
    """The rater's id."""
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> Literal["open", "used", "revoked", "expired"]:
        if self.used_at is not None:
            return "used"
        if self.revoked_at is not None:
            return "revoked"
        return "open" if now < self.expires_at else "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What one rater did on one screen. Immutable; a later row may void it.

    A row with `voids` set takes the earlier row back. With an empty payload that is all it does (an undo); with a
    payload it is at the same time the new answer (a correction).
    """

    rating_id: str
    """A UUID made by the client, so that sending it twice counts once."""
    task_id: str
    rater_id: str
    kind: str
    payload: dict[str, Any]
    image_ids: tuple[str, ...]
    """In the order in which this rater saw them."""
    dwell_ms: int
    client_time: str
    """ISO 8601, as the rater's own clock had it."""
    server_time: datetime
    app_version: str
    voids: str | None = None
    decide_ms: int | None = None
    """From the images being painted to the key; `dwell_ms` is until the choice was taken. 0 for a key pressed before.
    This and what follows is None where the page did not say."""
    input_device: InputDevice | None = None
    """What the choice was made with."""
    screen_size: ScreenSize | None = None
    """`small` is a phone's: the images stand one above the other."""
    shown_as: ShownAs | None = None
    """Which files were on the screen when the choice was made: the original images, or (of one of them at least) a copy
    made to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one rating says about two images; the rating kind derives it. `a` and `b` are the task's canonical order."""

    image_a: str
    image_b: str
    outcome: Literal["a", "b", "tie"]
    both_bad: bool
    left: Side
    """Which of the two was shown on the left (or first)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageValues:
    """What one rating says about any number of images: ranks, or grades on one axis."""

    axis: str
    """What was asked for: `overall`, or another that the project names."""
    image_ids: tuple[str, ...]
    values: tuple[int | None, ...]
    """Ranks (1 is best, equal is a tie, None is worse than all that are ranked), or grades from 1 to `levels`."""
    levels: int | None
    """None for ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An outcome with all that a reward model or a report wants to know about it."""

    rating_id: str
    task_id: str
    round: int
    prompt_id: str
    prompt: str
    rater_id: str
    image_a: str
    image_b: str
    outcome: Literal["a", "b", "tie"]
    both_bad: bool
    left: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a rater said, blind, of the images that two models drew for one prompt."""

    rating_id: str
    task_id: str
    round: int
    """Of the task."""
    study: str | None
    kind: str
    """The rating kind: what was asked."""
    prompt_id: str
    rater_id: str
    model: str
    """Which model drew the first image, `a`: the one that is judged."""
    other: str
    outcome: Literal["a", "b", "tie"]
    both_bad: bool
    left: Side

    @property
    def credit(self) -> float:
        """1 where `model` won, 0 where `other` did, half of a tie."""
        return {"a": 1.0, "b": 0.0, "tie": 0.5}[self.outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A screen that one rater answered twice, the second time in another order."""

    rating_id: str
    first_rating_id: str
    round: int
    rater_id: str
    agreement: float
    """Share of the answer that is the same: 0 or 1 for a pair, the best image or a single grade; of an order, the share
    of its pairs of images; of several grades, the share of these."""
    is_swapped: bool
    """Whether no image stood where it stood before. A single image has no other place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAnswer:
    """What a rater said where it is known which image is worse, or better. `Both bad` is no answer to that."""

    rating_id: str
    task_id: str
    round: int
    rater_id: str
    correct: float
    """Share of the other images that were preferred to the worse one, 0 or 1 where there are two; a tie is not. Of the
    best image and of grades 0 or 1 (`data.check_answers.correctness`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One turn of the loop."""

    number: int
    state: str
    started_at: datetime
    finished_at: datetime | None = None
    config_sha: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A leased task as one rater sees it."""

    task: Task
    prompt: str
    image_ids: tuple[str, ...]
    """In displayed order: random per (task, rater), the same whenever it is asked for; of a repeat, the other order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the rating of a round is. The round is rated when `done >= needed`."""

    done: int
    """Slots filled by an answer that stands."""
    needed: int
    """Slots to be filled: the sum of the tasks' overlaps, less what was skipped for good."""
    skipped: int
    """Slots that were skipped and that no active rater is left to fill."""
    checks: int
    """Answers that stand to repeats, gold and judgements of the round; no slot of it is filled by them."""
    last_rating_at: datetime | None
    per_minute: float
    """Pace of the latest ratings; 0.0 before there are two."""
    studied: int = 0
    """Slots filled of all studies' tasks."""
    to_study: int = 0
    """Slots of all studies' tasks."""

    @property
    def is_complete(self) -> bool:
        return self.done >= self.needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number that a stage reported."""

    round: int
    stage: str
    step: int
    name: str
    value: float
    """NaN for a number that was not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A Parquet file of comparisons: the only thing that training reads."""

    sha256: str
    """Of the file's bytes; the same ratings give the same hash."""
    path: Path
    comparisons: int


def standing_ratings(ratings: list[Rating]) -> list[Rating]:
    """Answers and skips that no later row took back."""
    voided = {rating.voids for rating in ratings if rating.voids is not None}
    return [rating for rating in ratings if rating.payload and rating.rating_id not in voided]
