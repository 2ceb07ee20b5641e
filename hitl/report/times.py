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
    """Per round: number, seconds by stage, total, share of training, counts."""
    sentences: tuple[str, ...]


def time_table(rounds: Sequence[RoundFiles]) -> TimeTable | None:
    """Where the time of each round went, and what the round cost in ratings and images."""
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
                "train_share": seconds.get("train", 0.0) / total if total else None,
                "ratings": files.manifests.get("rate", {}).get("ratings"),
                "comparisons": files.manifests.get("rate", {}).get("comparisons"),
                "drawn": files.manifests.get("draw", {}).get("images"),
                "trained": files.manifests.get("train", {}).get("images"),
            }
        )
    if not any(row["total"] for row in rows):
        return None
    svg = figures.stage_times(
        "times", {row["number"]: row["seconds"] for row in rows}, alt="Time of each round by stage"
    )
    return TimeTable(svg=svg, rows=tuple(rows), sentences=tuple(_time_sentences(rounds, rows)))


def _time_sentences(rounds: Sequence[RoundFiles], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    total = sum(row["total"] for row in rows)
    trained = sum(row["seconds"].get("train", 0.0) for row in rows)
    sentences = [
        f"{words.count(len(rows), 'round')} took {words.duration(total)}; "
        f"training was {100 * trained / total:.0f} % of it."
    ]
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
        told = [f"{text} {100 * seconds[name] / inside:.0f} %" for name, text in parts.items()]
        sentences.append(f"Within training: {words.listed(told)}.")
    return sentences
