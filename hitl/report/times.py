"""Where the time of a round went, and what it cost in ratings and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.workspace import STAGES
from hitl.report import figures, words
from hitl.report.files import RoundFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTable:
    svg: str
    rows: tuple[dict[str, Any], ...]
    """What `costs` says."""
    sentences: tuple[str, ...]


def time_table(rounds: Sequence[RoundFiles]) -> TimeTable | None:
    """Where the time of each round went, and what the round cost in ratings and images; None where nothing says so."""
    rows = costs(rounds)
    if not any(row["total"] for row in rows):
        return None
    svg = figures.stage_times(
        "times", {row["number"]: row["seconds"] for row in rows}, alt="Time of each round by stage"
    )
    return TimeTable(svg=svg, rows=tuple(rows), sentences=tuple(_time_sentences(rounds, rows)))


def costs(rounds: Sequence[RoundFiles]) -> list[dict[str, Any]]:
    """Per round: number, seconds by stage and in all, shares of training and of judging, counts; None if unknown."""
    rows = []
    for files in rounds:
        seconds = {
            stage: float(files.manifests[stage]["seconds"])
            for stage in STAGES
            if figures.finite([files.manifests.get(stage, {}).get("seconds")])
        }
        total = sum(seconds.values())
        rows.append(
            {
                "number": files.number,
                "seconds": seconds,
                "total": total,
                "shares": {
                    stage: seconds[stage] / total for stage in ("train", "evaluate") if stage in seconds and total
                },
                "ratings": files.manifests.get("rate", {}).get("ratings"),
                "comparisons": files.manifests.get("rate", {}).get("comparisons"),
                "drawn": files.manifests.get("draw", {}).get("images"),
                "reward_queries": files.manifests.get("train", {}).get("images"),
            }
        )
    return rows


def _time_sentences(rounds: Sequence[RoundFiles], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    total = sum(row["total"] for row in rows)
    trained, judged = (sum(row["seconds"].get(stage, 0.0) for row in rows) for stage in ("train", "evaluate"))
    sentences = [
        f"{words.count(len(rows), 'round')} took {words.duration(total)}; "
        f"training was {100 * trained / total:.0f} % of it, judging {100 * judged / total:.0f} %."
    ]
    ratings, queries = (sum(row[key] or 0 for row in rows) for key in ("ratings", "reward_queries"))
    sentences.append(
        f"They cost {words.count(ratings, 'rating')} and {words.count(queries, 'reward query', 'reward queries')}: "
        "images that training had scored."
    )
    parts = {"collect": "drawing its images", "score": "scoring them", "update": "learning from them"}
    seconds = {
        name: sum(
            figures.finite(
                [
                    (row.get("metrics") or {}).get(f"seconds_{name}")
                    for files in rounds
                    for row in files.stage_metrics("train")
                ]
            )
        )
        for name in parts
    }
    inside = sum(seconds.values())
    if inside:
        shares = words.percents([seconds[name] for name in parts])
        told = [f"{text} {share} %" for text, share in zip(parts.values(), shares, strict=True)]
        sentences.append(f"Within training: {words.listed(told)}.")
    return sentences
