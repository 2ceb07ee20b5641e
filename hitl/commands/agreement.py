"""`hitl agreement`: what the raters say together, how sure that is, and how each of them rates."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.aggregation import Aggregate, aggregate
from data.answered import Answered, agreements, answered, kappas, votes_of
from data.bootstrap import LEAST_CLUSTERS
from data.ceiling import single_rater_ceiling
from data.quality import RaterQuality, raters_quality, repeat_consistency, slopes_of
from data.store import Store
from data.win_rates import blind_win_rates, models_of, win_rates
from data.workspace import Workspace
from hitl.commands.reading import open_for_reading
from hitl.core.errors import UnknownName
from hitl.core.words import counted
from hitl.report.page import plain

_COLUMNS = ("rater", "answers", "reliability", "to the left", "left", "ties", "the same again", "gold", "seconds")
_WIDTHS = (14, 7, 13, 13, 5, 5, 14, 11, 7)


def run(round: int, names: bool, workspace: Path | None, as_json: bool) -> None:
    folder = Workspace.find(workspace)
    with open_for_reading(folder) as store:
        found = collect(store, round or None, names=names)
    found = {"workspace": str(folder.root), **found}
    print(json.dumps(plain(found), indent=2, ensure_ascii=False) if as_json else describe(found))


def collect(store: Store, round: int | None, *, names: bool) -> dict[str, Any]:
    """Every figure, of one round or of all, with nan where there is none. Raters are numbered, or by their names.

    Raises:
        UnknownName: there is no such round.
    """
    known = [each.number for each in store.rounds()]
    if round is not None and round not in known:
        there = f"There are {', '.join(map(str, known))}." if known else "None has begun."
        raise UnknownName(f"There is no round {round}.", hint=f"{there} Without --round it is all of them.")
    said = answered(store, round)
    votes = votes_of(said)
    fitted = aggregate(votes)
    slopes = slopes_of(fitted)
    ceiling = single_rater_ceiling(votes)
    called = {each.rater_id: f"rater-{number:03d}" for number, each in enumerate(store.raters(), 1)}
    reliability = {rater_id: each.reliability for rater_id, each in slopes.items() if math.isfinite(each.reliability)}
    quality = raters_quality(store, said, slopes, round)
    return {
        "round": round,
        "answers": sum(not each.is_skip for each in said),
        "alpha": {name: asdict(each) for name, each in agreements(said).items()},
        "kappa": {name: asdict(each) for name, each in kappas(said).items()},
        "ceiling": None if ceiling is None else asdict(ceiling),
        "consistency": repeat_consistency(store, round).to_dict(),
        "scores": _scores(fitted, len(votes)),
        "raters": [_rater(each, each.rater.name if names else called[each.rater.rater_id]) for each in quality],
        "models": [asdict(each) for each in win_rates(votes, models_of(store.images()), reliability)],
        "blind": [asdict(each) for each in blind_win_rates(store.judgements(round))],
        "notes": [*fitted.notes, *_more_notes(said)],
    }


def _scores(fitted: Aggregate, comparisons: int) -> dict[str, Any]:
    return {
        "comparisons": comparisons,
        "images": len(fitted.items),
        "parts": len({*fitted.part.tolist()}),
        "tie": fitted.tie,
        "tie_se": fitted.tie_se,
    }


def _rater(quality: RaterQuality, name: str) -> dict[str, Any]:
    slopes = quality.slopes
    return {
        "rater": name,
        "kind": quality.rater.kind,
        "answers": quality.answers,
        "skips": quality.skips,
        "reliability": math.nan if slopes is None else slopes.reliability,
        "reliability_se": math.nan if slopes is None else slopes.reliability_se,
        "side_bias": math.nan if slopes is None else slopes.side_bias,
        "side_bias_se": math.nan if slopes is None else slopes.side_bias_se,
        **{
            what: None if share is None else asdict(share)
            for what, share in (
                ("left", quality.left),
                ("ties", quality.ties),
                ("consistency", quality.consistency),
                ("gold", quality.gold),
            )
        },
        "median_s": quality.median_s,
        "doubts": list(quality.doubts),
    }


def _more_notes(said: Sequence[Answered]) -> Iterable[str]:
    given = Counter(each.task.purpose for each in said if not each.is_skip)
    if checks := given["repeat"] + given["gold"]:
        yield f"Repeats and gold ({checks:,} answers) count for consistency and gold alone."
    if given["judge"]:
        yield f"Blind comparisons of two models ({given['judge']:,} answers) judge these: nothing learns from them."


# -- for people -------------------------------------------------------------------------------------------------------


def describe(found: Mapping[str, Any]) -> str:
    """All of it in lines."""
    which = "all rounds" if found["round"] is None else f"round {found['round']}"
    head = f"{found['workspace']}, {which}: {found['answers']:,} answers by {counted(len(found['raters']), 'rater')}"
    if not found["answers"]:
        return f"{head}.\nThere is nothing to compare yet.\nNext: hitl round -w {found['workspace']}"
    blocks = [
        [f"{head}. Brackets are 95 % intervals, ± one standard error."],
        ["Agreement beyond chance (1: always, 0: as often as by chance)", *_beyond_chance(found)],
        ["Together", *_together(found)],
        ["Raters", *_raters(found["raters"])],
        ["Models", *_models(found["models"])],
        ["Blind comparisons", *_blind(found["blind"])] if found["blind"] else [],
        [*(f"Note: {note}" for note in found["notes"])],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _beyond_chance(found: Mapping[str, Any]) -> Iterable[str]:
    for name, alpha in found["alpha"].items():
        if alpha["reason"]:
            yield f"  {name}: {alpha['reason']}"
            continue
        shared = f"{counted(alpha['clusters'], 'task')} with two answers or more"
        yield f"  {name}: α {_number(alpha)}, {shared}"
        kappa = found["kappa"].get(name)
        if kappa is not None and not kappa["reason"]:
            more = f"; {kappa['left_out']:,} with another number left out" if kappa["left_out"] else ""
            yield f"  {name}: Fleiss’ κ {_number(kappa)}, {kappa['units']:,} with {kappa['raters']} answers each{more}"


def _together(found: Mapping[str, Any]) -> Iterable[str]:
    ceiling, again, scores = found["ceiling"], found["consistency"], found["scores"]
    if ceiling is None:
        yield "  One rater against the others: not known, no two raters preferred an image of the same pair."
    else:
        even = f"; on {ceiling['even']:,} the others were even, which is half right" if ceiling["even"] else ""
        ties = f"; {counted(ceiling['ties'], 'tie')} left out" if ceiling["ties"] else ""
        share = f"{_percent(ceiling['agreement'])} of {ceiling['agreement']['n']:,} votes{even}{ties}"
        yield f"  One rater says what most of the others say: {share}"
    if again["n"]:
        yield f"  The same answer to the same question, sides swapped: {_percent(again)} of {again['n']:,} repeats"
    else:
        yield "  The same answer to the same question: not known, nobody was asked twice (rate.repeats)."
    if scores["tie"]:
        equal = scores["tie"] / (2 + scores["tie"])
        often = f"two equal images are called a tie {equal:.0%} of the time"
        yield f"  Ties: ν {scores['tie']:.2f} ± {scores['tie_se']:.2f}; {often}"


def _raters(raters: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "  " + _row(_COLUMNS)
    for each in raters:
        yield "  " + _row(
            (
                each["rater"],
                f"{each['answers']:,}",
                _estimate(each["reliability"], each["reliability_se"], sign=""),
                _estimate(each["side_bias"], each["side_bias_se"], sign="+"),
                _share(each["left"]),
                _share(each["ties"]),
                _share(each["consistency"], of=True),
                _share(each["gold"], of=True),
                "–" if math.isnan(each["median_s"]) else f"{each['median_s']:.1f}",
            )
        )
        yield from (f"    △ {doubt}" for doubt in each["doubts"])


def _models(models: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not models:
        yield "  No images of two models were compared with each other."
    for each in models:
        rate, by = each["rate"], each["by_reliability"]
        few = "" if rate["clusters"] >= LEAST_CLUSTERS else " (too few for an interval)"
        prompts, ties = counted(rate["clusters"], "prompt") + few, f"{each['ties']:.0%} ties"
        more = "" if by is None else f"; by reliability {_percent(by)}"
        yield (
            f"  {each['model']} wins against {each['other']}: {_percent(rate)} of {rate['n']:,} comparisons of "
            f"{prompts}, {ties} as halves{more}"
        )


def _blind(pairs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for each in pairs:
        prompts, raters = each["over_prompts"], each["over_raters"]
        yield (
            f"  {each['model']} wins against {each['other']}: {prompts['mean']:.0%} of "
            f"{counted(prompts['n'], 'vote')}, {each['ties']:.0%} ties as halves"
        )
        if raters["clusters"] > 1:
            by = f"over {counted(raters['clusters'], 'rater')}{_brackets(raters['low'], raters['high'], '.0%')}"
        else:
            by = "by one rater, which says nothing of others"
        sure = _brackets(prompts["low"], prompts["high"], ".0%") or " (too few for an interval)"
        yield f"    over {counted(prompts['clusters'], 'prompt')}{sure}, {by}"


def _row(cells: Sequence[str]) -> str:
    first, *rest = zip(cells, _WIDTHS, strict=True)
    return f"{first[0]:{first[1]}}" + "".join(f"  {cell:>{width}}" for cell, width in rest)


def _estimate(value: float, se: float, *, sign: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:{sign}.2f}" + ("" if math.isnan(se) else f" ± {se:.2f}")


def _share(share: Mapping[str, Any] | None, *, of: bool = False) -> str:
    if share is None:
        return "–"
    return f"{share['value']:.0%}" + (f" of {share['n']}" if of else "")


def _number(found: Mapping[str, Any]) -> str:
    value = found.get("alpha", found.get("kappa"))
    return f"{value:.2f}" + _brackets(found["low"], found["high"], ".2f")


def _percent(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.0%}" + _brackets(found["low"], found["high"], ".0%")


def _brackets(low: float, high: float, form: str) -> str:
    return "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
