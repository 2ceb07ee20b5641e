"""A rater's last decisions as they were shown: what was chosen, how long it took, what was added."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from apps.board.words import clock
from data import RATING_KINDS
from data.records import OVERALL, Rater, Rating, Task
from data.store import Store
from hitl.core.words import counted

MOST = 50
_WORDS = {"tie": "tie", "both_bad": "both bad", "skip": "skipped", "left": "left", "right": "right"}


def last_decisions(store: Store, rater: Rater) -> str:
    """The newest first. Those that were taken back stand among them, marked."""
    rows = store.ratings(rater_id=rater.rater_id)
    voided = {row.voids for row in rows if row.voids is not None}
    decisions = [row for row in rows if row.payload][-MOST:][::-1]
    texts = {prompt.prompt_id: prompt.text for prompt in store.prompts()}
    right = {each.rating_id: each.correct for each in store.gold_answers()}
    same = {each.rating_id: each.agreement for each in store.repeats()}
    cards = []
    for row in decisions:
        task = store.task(row.task_id)
        assert task is not None  # a rating is only kept of a task that is there
        verdict = _verdict(task, right.get(row.rating_id), same.get(row.rating_id))
        cards.append(_card(row, task, texts[task.prompt_id], verdict, is_voided=row.rating_id in voided))
    if not cards:
        return ""
    return (
        f'<section class="panel whole decisions"><h2>{html.escape(rater.name)}: the last'
        f' {counted(len(cards), "decision")}</h2><p class="note">The newest first, each as it was shown; nobody else’s'
        f' answers are among them.</p><div class="cards">{"".join(cards)}</div></section>'
    )


def _verdict(task: Task, correct: float | None, agreement: float | None) -> str:
    if task.purpose == "gold":
        said = "" if correct is None else ": right" if correct == 1 else ": wrong" if correct == 0 else ": partly right"
        return f"gold{said}"
    if task.purpose == "repeat":
        said = "" if agreement is None else ": same answer" if agreement == 1 else ": another answer"
        return f"repeat{said}"
    if task.purpose == "judge":
        return "blind"
    return ""


def _card(row: Rating, task: Task, prompt: str, verdict: str, *, is_voided: bool) -> str:
    said, marks = _said(row)
    extras = row.payload
    pictures = "".join(
        _picture(n, image_id, mark, _listed(extras.get("flags"), n), _listed(extras.get("points"), n))
        for n, (image_id, mark) in enumerate(zip(row.image_ids, marks, strict=True))
    )
    badges = "".join(f"<b>{html.escape(each)}</b>" for each in (verdict, "taken back" if is_voided else "") if each)
    note = "".join(f"<q>{html.escape(str(extras[name]))}</q>" for name in ("note", "reason") if extras.get(name))
    device = f" · {row.input_device}" if row.input_device else ""
    return (
        f'<article class="card{" voided" if is_voided else ""}"><p class="prompt" dir="auto">{html.escape(prompt)}</p>'
        f'<div class="pictures">{pictures}</div><p class="said"><strong>{html.escape(said)}</strong>{badges}</p>'
        f"<p class='facts'>{row.dwell_ms / 1000:.1f} s{device} · {clock(row.server_time)}</p>{note}</article>"
    )


def _said(row: Rating) -> tuple[str, list[str]]:
    """The answer in words, and what to write on each picture, in the order shown; empty where there is nothing."""
    kind, count = RATING_KINDS.load(row.kind), len(row.image_ids)
    if kind.is_skip(row.payload):
        return "skipped", [""] * count
    if kind.screen == "choose":
        choice = str(row.payload["choice"])
        marks = ["chosen" if choice == side else "" for side in ("left", "right")]
        return _WORDS.get(choice, choice), marks
    if kind.screen == "grade":
        grades: Mapping[str, Sequence[int]] = row.payload["grades"]
        names = {1: "bad", 2: "good"} if kind.levels == 2 else {}
        said = " · ".join(f"{axis} {_joined(given, names)}" for axis, given in grades.items())
        return said, [names.get(grade, f"{grade} of {kind.levels}") for grade in grades[OVERALL]]
    ranks: Sequence[int | None] = row.payload["ranks"]
    if kind.screen == "best":
        place = next(n for n, rank in enumerate(ranks) if rank is not None)
        return f"picture {place + 1} is the best", ["chosen" if rank is not None else "" for rank in ranks]
    return "put in order", [f"place {rank}" for rank in ranks]


def _joined(given: Sequence[int], names: Mapping[int, str]) -> str:
    return ", ".join(names.get(grade, str(grade)) for grade in given)


def _listed(lists: Any, n: int) -> Sequence[Any]:
    return lists[n] if lists else ()


def _picture(n: int, image_id: str, mark: str, flags: Sequence[str], points: Sequence[Sequence[float]]) -> str:
    dots = "".join(f'<i class="point" style="left:{100 * x:.1f}%;top:{100 * y:.1f}%"></i>' for x, y in points)
    flagged = f"<span class='flags'>{html.escape(', '.join(flags))}</span>" if flags else ""
    caption = f"<figcaption>{html.escape(mark)}</figcaption>" if mark else ""
    is_marked = " marked" if mark in ("chosen", "good") else ""
    image = f'<img src="../image/{html.escape(image_id)}" alt="picture {n + 1}" loading="lazy">'
    return f'<figure class="{is_marked.strip()}"><div>{image}{dots}</div>{caption}{flagged}</figure>'
