"""The researcher's page: where the loop is, how the rating goes, who rates how, and what the stages report."""

import html
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import gradio as gr
import pandas as pd
from fastapi import Request

from apps.lost_images import lost_in_words
from apps.rate import plain_theme, read_static
from apps.session import RatingDesk
from data import RATING_KINDS
from data.records import standing_ratings
from hitl.core.live import LiveStatus

NUMBERS_EVERY_S = 3
PLOTS_EVERY_S = 15

RATER_COLUMNS = ["rater", "kind", "answers", "skips", "left", "ties", "seconds", "last answer"]
_ACROSS_ROUNDS = "last value of each round"


def build_board(desk: RatingDesk, is_researcher: Callable[[Request], bool]) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page, and the look to mount it with. Every function asks again who calls it: its route can be called raw."""

    def authorise(request: gr.Request) -> None:
        if request.request is None or not is_researcher(request.request):
            raise gr.Error("This page is for the researcher. Open the link to the board that hitl printed.")

    def numbers(request: gr.Request) -> tuple[str, dict[str, Any]]:
        authorise(request)
        number = round_being_rated(desk)
        return summary(desk), gr.update(value=rater_table(desk, number), label=f"Raters in round {number}")

    def plots(
        metric: str | None, view: str, request: gr.Request
    ) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
        authorise(request)
        number = round_being_rated(desk)
        answers = rater_table(desk, number)[["rater", "kind", "answers"]]
        found = metric_table(desk)
        names = sorted(found["metric"].unique())
        chosen = metric if metric in names else next(iter(names), None)
        bars = gr.update(value=answers, visible=not answers.empty)
        return gr.update(choices=names, value=chosen), metric_line(found, chosen, view), bars

    with gr.Blocks(title="hitl · board", analytics_enabled=False, fill_width=True) as page:
        now = gr.HTML(elem_id="board-now")
        with gr.Row(equal_height=True):
            with gr.Column(scale=3):
                table = gr.Dataframe(
                    headers=RATER_COLUMNS,
                    label="Raters",
                    interactive=False,
                    buttons=[],
                    elem_id="board-raters",
                )
            with gr.Column(scale=2):
                bars = gr.BarPlot(x="rater", y="answers", color="kind", label="Answers", show_label=True, height=260)
        with gr.Row():
            metric = gr.Dropdown(label="Metric", choices=[], interactive=True, filterable=True, scale=3)
            view = gr.Radio(
                label="Shown", choices=["within each round", _ACROSS_ROUNDS], value="within each round", scale=2
            )
        line = gr.LinePlot(x="step", y="value", color="round", height=320, elem_id="board-metric")

        # "multiple": a slow refresh must not swallow the next one; nothing here changes what is stored.
        silent = {"show_progress": "hidden", "concurrency_limit": 4, "api_visibility": "private"}
        everything = {"fn": plots, "inputs": [metric, view], "outputs": [metric, line, bars]}
        page.load(numbers, outputs=[now, table], **silent)
        page.load(**everything, **silent)
        gr.Timer(NUMBERS_EVERY_S).tick(numbers, outputs=[now, table], **silent)
        gr.Timer(PLOTS_EVERY_S).tick(**everything, **silent)
        metric.input(**everything, trigger_mode="multiple", **silent)
        view.input(**everything, trigger_mode="multiple", **silent)
    return page, {"theme": plain_theme(), "css": read_static("board.css")}


def summary(desk: RatingDesk) -> str:
    """The head of the page as HTML: four figures and a bar for the stage under way."""
    status, rated = desk.live.view(), desk.progress()
    skipped = f", {rated['skipped']} skipped" if rated["skipped"] else ""
    figures = [
        ("Round", f"{status.round or rated['round']}" + (f" of {status.rounds}" if status.rounds else "")),
        ("Stage", status.stage),
        ("Ratings", f"{rated['done']}/{rated['needed']}{skipped}"),
        ("Rating ends in", _duration(rated["eta_s"]) if rated["done"] < rated["needed"] else "done"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in figures)
    lost = f'<p role="alert"><strong>{html.escape(told)}</strong></p>' if (told := lost_in_words(desk.store)) else ""
    return f'<h1>Board</h1><dl class="figures">{cells}</dl>{_stage_bar(status, rated)}{lost}'


def _stage_bar(status: LiveStatus, rated: dict[str, Any]) -> str:
    """How far the stage is. While people rate, that is how far they are."""
    done, total, eta_s = status.done, status.total, status.eta_s
    if status.stage == "rate":
        done, total, eta_s = rated["done"], rated["needed"], rated["eta_s"]
    share = min(1.0, done / total) if total else 0.0
    count = f"{done}/{total}" + (f" · about {_duration(eta_s)} left" if eta_s else "")
    return (
        f'<p class="stage"><strong>{html.escape(status.message)}</strong><span>{count}</span></p>'
        f'<div class="meter" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{share * 100:.0f}" aria-label="Progress of the stage">'
        f'<i style="width:{share * 100:.1f}%"></i></div>'
    )


def rater_table(desk: RatingDesk, number: int) -> pd.DataFrame:
    """One row per rater who did something in that round. `left` is of decided answers: near 50 % is fair."""
    standing = standing_ratings(desk.store.ratings(round=number, purpose="learn"))
    comparisons = desk.store.comparisons(number)
    rows = []
    for rater in desk.store.raters():
        own = [rating for rating in standing if rating.rater_id == rater.rater_id]
        if not own:
            continue
        answers = [found for found in comparisons if found.rater_id == rater.rater_id]
        skips = sum(RATING_KINDS.load(rating.kind).is_skip(rating.payload) for rating in own)
        decided = [found for found in answers if found.outcome != "tie"]
        rows.append(
            [
                rater.name,
                rater.kind,
                len(own) - skips,
                skips,
                _share(sum(found.outcome == found.left for found in decided), len(decided)),
                _share(len(answers) - len(decided), len(answers)),
                f"{statistics.median(rating.dwell_ms for rating in own) / 1000:.1f}",
                _ago(max(rating.server_time for rating in own)),
            ]
        )
    return pd.DataFrame(rows, columns=RATER_COLUMNS)


def round_being_rated(desk: RatingDesk) -> int:
    """The newest round that has ratings; the newest of all while none has."""
    numbers = [entry.number for entry in desk.store.rounds()]
    rated = (number for number in reversed(numbers) if desk.store.ratings(round=number))
    return next(rated, numbers[-1] if numbers else 0)


def metric_table(desk: RatingDesk) -> pd.DataFrame:
    """All that the stages of all rounds reported, named `stage · name`."""
    rows = [
        (f"{found.stage} · {found.name}", f"{found.round}", found.step, found.value)
        for entry in desk.store.rounds()
        for found in desk.store.metrics(entry.number)
    ]
    return pd.DataFrame(rows, columns=["metric", "round", "step", "value"])


def metric_line(table: pd.DataFrame, metric: str | None, view: str) -> pd.DataFrame:
    """The points of one metric: step by step, one line per round; or one point per round, to see the rounds' trend."""
    points = table.loc[table["metric"] == metric, ["step", "value", "round"]].dropna().sort_values(["round", "step"])
    if view != _ACROSS_ROUNDS:
        return points
    last = points.groupby("round", as_index=False).last()
    return pd.DataFrame({"step": last["round"].astype(int), "value": last["value"], "round": "all"}).sort_values("step")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def _ago(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return "just now" if seconds < 60 else f"{_duration(seconds)} ago"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
