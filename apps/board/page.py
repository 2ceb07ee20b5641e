"""The researcher's page: its components, when each is renewed, and that every function asks who calls it."""

from collections.abc import Callable
from typing import Any

import gradio as gr
import pandas as pd
from fastapi import Request

from apps.board import panels
from apps.board.decisions import last_decisions
from apps.board.findings import Finder
from apps.lost_images import lost_in_words
from apps.rate import plain_theme, read_static
from apps.session import RatingDesk

NUMBERS_EVERY_S = 3
PLOTS_EVERY_S = 15

_ACROSS_ROUNDS = "last value of each round"
_NEWEST, _EVERY_ROUND = "newest", "every round"
_DOUBTED, _EVERYBODY = "those to look at", "all"

_TELL_WHO_WAS_CLICKED = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-rater]');
  if (button) trigger('select', {rater: button.dataset.rater});
});
"""
_SHOW_WHAT_CAME = """
watch('value', () => {
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  element.querySelector('.decisions')?.scrollIntoView({behavior: calm ? 'auto' : 'smooth'});
});
"""


def build_board(desk: RatingDesk, is_researcher: Callable[[Request], bool]) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page, and the look to mount it with. Every function asks again who calls it: its route can be called raw."""
    finder = Finder(desk.store)

    def authorise(request: gr.Request) -> None:
        if request.request is None or not is_researcher(request.request):
            raise gr.Error("This page is for the researcher. Open the link to the board that hitl printed.")

    def numbers(request: gr.Request) -> str:
        authorise(request)
        newest = round_being_rated(desk)
        pace = desk.store.progress(newest).per_minute * 60 if newest else 0.0
        lost = lost_in_words(desk.store)
        return panels.summary(desk.live.view(), desk.progress(), pace, finder.latest(newest), lost=lost)

    def quality(
        scope: str, shown: str, chosen: str | None, request: gr.Request
    ) -> tuple[dict[str, Any], str, str, dict[str, Any]]:
        """And when to ask again: soon, while the first findings are being worked out."""
        authorise(request)
        found = finder.latest(_round_of(scope, desk))
        return (
            gr.update(choices=_scopes(desk)),
            panels.overview(found),
            panels.raters(found, everybody=shown == _EVERYBODY, chosen=chosen),
            gr.update(value=NUMBERS_EVERY_S if found is None else PLOTS_EVERY_S),
        )

    def decisions(
        scope: str, shown: str, chosen: str | None, request: gr.Request, event: gr.EventData
    ) -> tuple[str | None, str, str]:
        """Of the rater who was clicked; a second click closes them."""
        authorise(request)
        clicked = desk.store.rater(str(event.rater))
        rater = None if clicked is None or clicked.rater_id == chosen else clicked
        rater_id = None if rater is None else rater.rater_id
        table = panels.raters(finder.latest(_round_of(scope, desk)), everybody=shown == _EVERYBODY, chosen=rater_id)
        return rater_id, table, "" if rater is None else last_decisions(desk.store, rater)

    def stages(metric: str | None, view: str, request: gr.Request) -> tuple[dict[str, Any], dict[str, Any]]:
        authorise(request)
        found = metric_table(desk)
        names = sorted(found["metric"].unique())
        chosen = metric if metric in names else next(iter(names), None)
        line = metric_line(found, chosen, view)
        return gr.update(choices=names, value=chosen), gr.update(value=line, visible=bool(names))

    with gr.Blocks(title="hitl · board", analytics_enabled=False, fill_width=True) as page:
        chosen = gr.State(None)
        with gr.Row(elem_id="board-controls"):
            gr.HTML('<h1>Board</h1><a href="../report" target="_blank">Report so far</a>', scale=2)
            scope = gr.Dropdown(label="Round", choices=_scopes(desk), value=_NEWEST, interactive=True, scale=1)
            shown = gr.Radio(label="Raters", choices=[_DOUBTED, _EVERYBODY], value=_DOUBTED, scale=1)
        now = gr.HTML(elem_id="board-now", elem_classes="board")
        overview = gr.HTML(elem_id="board-overview", elem_classes="board")
        raters = gr.HTML(elem_id="board-raters", elem_classes="board", js_on_load=_TELL_WHO_WAS_CLICKED)
        last = gr.HTML(elem_id="board-decisions", elem_classes="board", js_on_load=_SHOW_WHAT_CAME)
        with gr.Row(elem_id="board-stages"):
            metric = gr.Dropdown(label="What the stages report", choices=[], interactive=True, filterable=True, scale=3)
            view = gr.Radio(
                label="Shown", choices=["within each round", _ACROSS_ROUNDS], value="within each round", scale=2
            )
        again = gr.Timer(PLOTS_EVERY_S)
        line = gr.LinePlot(x="step", y="value", color="round", height=320, elem_id="board-metric")

        # "multiple": a slow refresh must not swallow the next one; nothing here changes what is stored.
        silent = {"show_progress": "hidden", "concurrency_limit": 4, "api_visibility": "private"}
        looks: dict[str, Any] = {
            "fn": quality,
            "inputs": [scope, shown, chosen],
            "outputs": [scope, overview, raters, again],
            **silent,
        }
        reports: dict[str, Any] = {"fn": stages, "inputs": [metric, view], "outputs": [metric, line], **silent}
        page.load(numbers, outputs=[now], **silent)
        page.load(**looks)
        page.load(**reports)
        gr.Timer(NUMBERS_EVERY_S).tick(numbers, outputs=[now], **silent)
        again.tick(**looks)
        gr.Timer(PLOTS_EVERY_S).tick(**reports)
        for control in (scope, shown):
            control.input(**looks, trigger_mode="multiple")
        for control in (metric, view):
            control.input(**reports, trigger_mode="multiple")
        raters.select(
            decisions,
            inputs=[scope, shown, chosen],
            outputs=[chosen, raters, last],
            trigger_mode="multiple",
            **silent,
        )
    return page, {"theme": plain_theme(), "css": read_static("board.css")}


def _scopes(desk: RatingDesk) -> list[tuple[str, str]]:
    """The rounds to choose from, with the values that stand for them."""
    numbers = [str(entry.number) for entry in reversed(desk.store.rounds())]
    return [
        ("the one being rated", _NEWEST),
        ("all rounds", _EVERY_ROUND),
        *((f"round {each}", each) for each in numbers),
    ]


def _round_of(scope: str, desk: RatingDesk) -> int | None:
    """What was chosen, of what there is: a route can be called with anything."""
    if scope == _EVERY_ROUND:
        return None
    known = {str(entry.number): entry.number for entry in desk.store.rounds()}
    return known.get(scope) or round_being_rated(desk)


def round_being_rated(desk: RatingDesk) -> int:
    """The newest round that has ratings; the newest of all while none has."""
    numbers = [entry.number for entry in desk.store.rounds()]
    rated = (number for number in reversed(numbers) if desk.store.has_ratings(number))
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
