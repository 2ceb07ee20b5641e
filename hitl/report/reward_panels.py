"""The plots of the reward model's page."""

from collections.abc import Mapping, Sequence
from typing import Any

from data.bootstrap import Interval
from hitl.report import figures
from hitl.report.figures import Series, Whisker
from hitl.report.files import RoundFiles, interval
from hitl.report.sections import Panel

MOST_ROWS = 14
"""Most tasks or raters in one plot: those with the most comparisons."""

_SHARE = (0.0, 1.0)


def reward_panels(rounds: Sequence[RoundFiles], fit: Mapping[str, Any], accuracy: Interval) -> list[Panel]:
    """Every plot that the fit report has the numbers for."""
    found = [
        _accuracy(fit, accuracy),
        _reliability(fit.get("judgement") or {}),
        _learning_curve(fit),
        _split("task", fit.get("judgement") or {}, accuracy),
        _split("rater", fit.get("judgement") or {}, accuracy),
        _raters(fit.get("raters_fitted") or {}),
        _by_round(rounds),
        _penalties(fit),
    ]
    return [panel for panel in found if panel is not None]


def _accuracy(fit: Mapping[str, Any], accuracy: Interval) -> Panel:
    """Against all it is judged by; where that is on other comparisons, the model's own on those stands beside."""
    rows = {"reward model": Whisker(found=accuracy)}
    zero_shot = interval(fit.get("zero_shot"))
    if zero_shot is not None:
        rows["zero-shot CLIP"] = Whisker(found=zero_shot, colour="muted")
    previous, ceiling = fit.get("previous") or {}, fit.get("ceiling") or {}
    last, gain = interval(previous.get("accuracy")), interval(previous.get("gain"))
    if last is not None and gain is not None:
        name = f"round {previous.get('round')}’s model"
        rows[name] = Whisker(found=last, colour="trained", beside=last.mean + gain.mean)
    human, model = interval(ceiling.get("human")), interval(ceiling.get("model"))
    if human is not None and model is not None:
        rows["one rater"] = Whisker(found=human, colour="taste", beside=model.mean)
    svg = figures.forest(
        "accuracy",
        rows,
        unit="% of held-out comparisons right",
        alt=f"Accuracy against a coin: {', '.join(rows)}",
        marks={"coin": 0.5},
        scale=100.0,
        limits=_SHARE,
    )
    is_beside = any(row.beside is not None for row in rows.values())
    note = "Hollow: the reward model on that row’s own comparisons." if is_beside else ""
    return Panel(title="Accuracy on held-out comparisons", svg=svg, note=note)


def _reliability(judgement: Mapping[str, Any]) -> Panel | None:
    bins = [(float(each["predicted"]), interval(each["observed"])) for each in judgement.get("bins") or ()]
    known = [(predicted, observed) for predicted, observed in bins if observed is not None]
    if not known:
        return None
    svg = figures.reliability("reliability", known, alt="How often the reward model is right, by how sure it is")
    return Panel(
        title="Is it as often right as it says?", svg=svg, note="On the dashed line it is; below, it is too sure."
    )


def _learning_curve(fit: Mapping[str, Any]) -> Panel | None:
    rows = fit.get("learning_curve") or ()
    points = {int(row["comparisons"]): found for row in rows if (found := interval(row["accuracy"])) is not None}
    if len(points) < 2:
        return None
    zero_shot = interval(fit.get("zero_shot"))
    svg = figures.learning_curve(
        "learning-curve",
        points,
        zero_shot=None if zero_shot is None else zero_shot.mean,
        alt="Accuracy of the reward model by the number of comparisons it was fitted on",
    )
    note = "Dashed: a coin." if zero_shot is None else "Dashed: a coin; dotted: zero-shot CLIP."
    return Panel(title="With more ratings", svg=svg, note=note)


def _split(by: str, judgement: Mapping[str, Any], accuracy: Interval) -> Panel | None:
    """Accuracy by task or by rater; None where there is one only."""
    found = {name: interval(each) for name, each in (judgement.get(f"by_{by}") or {}).items()}
    known = {name: each for name, each in found.items() if each is not None}
    if len(known) < 2:
        return None
    rows = {name: Whisker(found=known[name]) for name in _largest({name: each.n for name, each in known.items()})}
    svg = figures.forest(
        f"accuracy-by-{by}",
        rows,
        unit="% right",
        alt=f"Accuracy by {by}",
        marks={"coin": 0.5, "all": accuracy.mean},
        scale=100.0,
        limits=_SHARE,
    )
    return Panel(title=f"By {by}", svg=svg, note=_left_out(len(known), by))


def _raters(fitted: Mapping[str, Any]) -> Panel | None:
    """Reliability of each rater, as its estimate and twice its standard error."""
    found = {}
    for name, each in fitted.items():
        slope, error = each.get("reliability"), each.get("reliability_se")
        if figures.finite([slope]):
            half = 1.96 * float(error) if figures.finite([error]) else float("nan")
            found[name] = Interval(
                float(slope), float(slope) - half, float(slope) + half, int(each.get("answers", 0)), 0
            )
    if len(found) < 2:
        return None
    rows = {name: Whisker(found=found[name]) for name in _largest({name: each.n for name, each in found.items()})}
    svg = figures.forest(
        "reliability-by-rater",
        rows,
        unit="weight of the score’s difference",
        alt="Reliability of each rater, from random to average",
        marks={"random": 0.0, "typical": 1.0},
    )
    return Panel(title="Reliability of raters", svg=svg, note=_left_out(len(found), "rater"))


def _largest(sizes: Mapping[str, int]) -> list[str]:
    """The names with the most comparisons, in their own order."""
    kept = sorted(sizes, key=lambda name: -sizes[name])[:MOST_ROWS]
    return [name for name in sizes if name in kept]


def _left_out(known: int, by: str) -> str:
    return f"The {MOST_ROWS} of {known} {by}s with the most comparisons." if known > MOST_ROWS else ""


def _by_round(rounds: Sequence[RoundFiles]) -> Panel | None:
    series = []
    for key, colour, marker, shift in (("zero_shot", "muted", "^", 0.06), ("accuracy", "policy", "o", -0.06)):
        found = {files.number: interval(files.fit.get(key)) for files in rounds}
        points = {n: _shifted(each, -0.5) for n, each in found.items() if each is not None}
        series.append(Series(colour=colour, points=points, marker=marker, shift=shift))
    if len(series[-1].points) < 2:
        return None
    svg = figures.over_rounds(
        "accuracy-rounds",
        series,
        rounds[-1].number,
        scale=100.0,
        unit="points above a coin",
        alt="Accuracy of the reward model and of zero-shot CLIP by round, in points above a coin",
        start=min(series[-1].points),
    )
    return Panel(title="Accuracy by round", svg=svg, note="On all comparisons up to that round.")


def _penalties(fit: Mapping[str, Any]) -> Panel | None:
    tried = [each for each in fit.get("candidates") or () if isinstance(each, dict) and each.get("log_evidence")]
    if not tried or len(tried[0]["log_evidence"]) < 2:
        return None
    table = {float(penalty): float(value) for penalty, value in tried[0]["log_evidence"].items()}
    alt = "How much less probable each penalty makes the answers than the best does, in nats"
    return Panel(
        title="Choice of the linear head’s penalty",
        svg=figures.penalties("penalties", table, tried[0].get("l2"), alt=alt),
        note="How probable it makes the answers, beside the best (log evidence in nats); the large dot was chosen.",
    )


def _shifted(found: Interval, by: float) -> Interval:
    return Interval(found.mean + by, found.low + by, found.high + by, found.n, found.clusters)
