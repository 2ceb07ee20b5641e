"""The reward model's page, from fit reports that real judgements of simulated raters are in."""

import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from data.bootstrap import Interval, interval
from data.workspace import Workspace
from hitl.report import build_report
from hitl.report.files import RoundFiles, read_round
from hitl.report.page import plain
from hitl.report.raters_page import rater_names, raters_page
from hitl.report.reward_page import RewardPage, pseudonymous, reward_page
from reward_models.judgement import Pairs, ceiling, gain, judge, mistakes

RATERS = ("zoe@example.org", "ann@example.org", "bob@example.org")
TASKS = ("colour", "count", "composition", "location")


def simulated(seed: int = 0, *, prompts: int = 40) -> tuple[Pairs, np.ndarray]:
    """Three raters answer most pairs twice; the scores explain some of what they say."""
    rng = np.random.default_rng(seed)
    pair = np.repeat(np.arange(prompts * 6), 2)
    difference = np.repeat(rng.normal(0, 1, prompts * 6), 2)
    outcome = np.where(rng.random(len(pair)) < expit(1.5 * difference), 1, -1)
    outcome[rng.random(len(pair)) < 0.12] = 0
    prompt = pair // 6
    pairs = Pairs(
        first=2 * pair,
        second=2 * pair + 1,
        outcome=outcome,
        cluster=prompt,
        fold=prompt % 5,
        rater=np.array(RATERS)[(pair + np.tile([0, 1], prompts * 6)) % 3],
        task=np.array(TASKS)[prompt % 4],
    )
    return pairs, difference


def fit_report(image_ids: list[str], *, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A fit.json with everything in it, as JSON gives it back."""
    pairs, difference = simulated(seed)
    noise = np.random.default_rng(seed + 1)
    zero_shot, last = (0.5 * difference + noise.normal(0, size, len(pairs)) for size in (1.0, 0.4))
    found, by_clip, people = judge(pairs, difference), judge(pairs, zero_shot), ceiling(pairs, difference)
    linear = {
        "head": "linear",
        "l2": 100.0,
        "log_loss": 0.81,
        "accuracy": 0.72,
        "log_evidence": {"300": -2.5, "100": 0.0},
    }
    assert people is not None
    wrong = [
        {
            "prompt": f"three yellow stars, number {place}",
            "preferred": image_ids[2 * place],
            "other": image_ids[2 * place + 1],
            "probability": probability,
            "rater": str(pairs.rater[row]),
        }
        for place, (row, probability) in enumerate(mistakes(pairs, difference, most=len(image_ids) // 2))
    ]
    report = {
        "head": "linear",
        "comparisons": len(pairs),
        "ties": int((pairs.outcome == 0).sum()),
        "prompts": 40,
        "images": 480,
        "raters": 3,
        "held_out_by": "prompt",
        "accuracy": asdict(found.accuracy),
        "zero_shot": asdict(by_clip.accuracy),
        "gain": asdict(gain(pairs, difference, zero_shot)),
        "candidates": [linear],
        "side_bias": 0.1,
        "is_better_than_chance": True,
        "judgement": asdict(found),
        "zero_shot_judgement": asdict(by_clip),
        "ceiling": asdict(people),
        "previous": {
            "round": 1,
            "accuracy": asdict(judge(pairs, last).accuracy),
            "gain": asdict(gain(pairs, difference, last)),
            "pairs": 200,
        },
        "raters_fitted": {
            RATERS[0]: rater(130, 1.05, 0.2, 0.3),
            RATERS[1]: rater(170, 0.9, 0.15, -0.1),
            RATERS[2]: rater(80, -0.1, 0.3, 0.0),
        },
        "learning_curve": [
            {"comparisons": n, "accuracy": asdict(share(0.6 + 0.03 * step, seed=step))}
            for step, n in enumerate((48, 96, 192, 384))
        ],
        "needed": 480,
        "mistakes": wrong,
        "drift": {"images": 64, "agreement": asdict(Interval(0.81, 0.74, 0.87, 16, 16)), "shift": -0.12},
        "answers": {"pairs": 420, "rankings": 20, "grades": 0, "labels": 0, "both_bad": 1},
    }
    return json.loads(json.dumps(report | changes))


def rater(answers: int, reliability: float, error: float, side_bias: float) -> dict[str, float]:
    return {
        "answers": answers,
        "reliability": reliability,
        "reliability_se": error,
        "side_bias": side_bias,
        "side_bias_se": 0.1,
    }


def share(accuracy: float, *, seed: int) -> Interval:
    right = (np.random.default_rng(seed).random(240) < accuracy).astype(float)
    return interval(right, np.arange(240) // 6, seed=0)


def add_picture(workspace: Workspace, grey: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(file, "PNG")
    return workspace.add_image(file.getvalue())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def image_ids(workspace: Workspace) -> list[str]:
    return [add_picture(workspace, 10 * place) for place in range(8)]


def files_of(workspace: Workspace, report: dict[str, Any], number: int = 1) -> RoundFiles:
    workspace.write_manifest(number, "fit", {"seconds": 5.0, "report": report})
    return read_round(workspace, number)


def page_of(workspace: Workspace, report: dict[str, Any]) -> RewardPage:
    page = reward_page([files_of(workspace, report)], workspace.image_path)
    assert page is not None
    return page


def text_of(page: RewardPage) -> str:
    return "\n".join(sentence for answer in page.answers for sentence in answer.sentences)


def test_it_is_set_against_chance_clip_the_last_round_and_people(workspace: Workspace, image_ids: list[str]):
    report = fit_report(image_ids)
    text = text_of(page_of(workspace, report))
    human, model = (report["ceiling"][who] for who in ("human", "model"))
    assert "a coin is right on half" in text
    assert "Zero-shot CLIP, without any rating: " in text
    assert f"A rater agrees with the others on {100 * human['mean']:.1f} %" in text
    assert f"the reward model gives {100 * model['mean']:.1f} %" in text
    assert "Round 1’s model, on " in text
    assert "rank correlation of 0.81 [0.74, 0.87] within a prompt" in text
    assert "their mean moved by −0.12" in text
    assert "The answers: 420 pairs and 20 rankings; of 1 pair both were called bad." in text


def test_every_measure_stands_beside_zero_shot_clips(workspace: Workspace, image_ids: list[str]):
    report = fit_report(image_ids)
    page = page_of(workspace, report)
    assert page.models == ("Reward model", "Zero-shot CLIP")
    rows = {row.name: row for row in page.measures}
    brier = report["zero_shot_judgement"]["brier"]
    assert rows["Brier score"].values[1] == (f"{brier['mean']:.3f}", f"[{brier['low']:.3f}, {brier['high']:.3f}]")
    ties = report["ties"] / report["comparisons"]
    assert rows["With ties as a third answer"].note == f"calling all a tie: {50 * (1 + ties):.1f} %"
    assert list(rows)[-2:] == ["Calibration error, points", "The same by chance alone"]


def test_calibration_is_told_in_words(workspace: Workspace, image_ids: list[str]):
    report = fit_report(image_ids)
    good, bad = Interval(0.02, 0.0, 0.04, 400, 40), Interval(0.09, 0.06, 0.12, 400, 40)
    bins = [{"low": 0.5, "high": 1.0, "predicted": 0.8, "observed": asdict(share(0.7, seed=0))}]
    for ece, by, said in (
        (good, bins, "No sign that its probabilities are off"),
        (bad, bins, "it is too sure of itself"),
        (bad, [bins[0] | {"predicted": 0.6}], "it is surer than it says"),
    ):
        report["judgement"] |= {"ece": asdict(ece), "ece_if_calibrated": asdict(Interval(0.03, 0.01, 0.05, 400, 40))}
        report["judgement"]["bins"] = by
        assert said in text_of(page_of(workspace, report))


def test_all_that_is_known_is_drawn(workspace: Workspace, image_ids: list[str]):
    titles = [panel.title for panel in page_of(workspace, fit_report(image_ids)).panels]
    assert titles == [
        "Accuracy on held-out comparisons",
        "Is it as often right as it says?",
        "With more ratings",
        "By task",
        "By rater",
        "Reliability of raters",
        "Choice of the linear head’s penalty",
    ]
    by_rater = page_of(workspace, fit_report(image_ids)).panels[4].svg
    assert all(f"rater {number}" in by_rater for number in (1, 2, 3))


@pytest.mark.parametrize("low", [0.45, -0.2, float("nan")])
def test_a_plot_copes_with_an_interval_beyond_the_scale_or_none(workspace: Workspace, image_ids: list[str], low: float):
    report = fit_report(image_ids)
    wide = asdict(Interval(0.55, low, 1.1 - low, 12, 2))
    report |= {"accuracy": wide, "zero_shot": wide, "gain": wide, "ceiling": {"human": wide, "model": wide}}
    report["judgement"]["by_task"] = {"colour": wide, "count": wide}
    report["learning_curve"] = [{"comparisons": n, "accuracy": wide} for n in (10, 20)]
    page = page_of(workspace, plain(report))
    assert not any("nan" in panel.svg for panel in page.panels)
    [first, *_] = page.answers[0].sentences
    assert "−" not in first
    assert ("no interval" in first) == np.isnan(low)


def test_many_raters_are_cut_to_those_with_the_most_answers(workspace: Workspace, image_ids: list[str]):
    many = {f"r{number:02}": rater(number, 1.0, 0.1, 0.0) for number in range(30)}
    page = page_of(workspace, fit_report(image_ids, raters_fitted=many))
    panel = next(panel for panel in page.panels if panel.title == "Reliability of raters")
    assert "The 14 of 33 raters" in panel.note or "The 14 of 30 raters" in panel.note
    shown = raters_page(files_of(workspace, fit_report(image_ids, raters_fitted=many)))
    assert shown is not None
    assert [each.fitted for each in shown.rows if each.fitted != "–"] == [str(number) for number in range(30)]


def test_raters_have_numbers_instead_of_names(workspace: Workspace, image_ids: list[str]):
    report = fit_report(image_ids)
    files = files_of(workspace, report)
    page = raters_page(files)
    assert page is not None
    assert [row.name for row in page.rows] == ["rater 1", "rater 2", "rater 3"]
    assert page.rows[1].reliability == "−0.10 ± 0.30"  # bob, second by name
    assert page.rows[2].left == "57 %"
    hidden = pseudonymous(report, rater_names(files))
    assert hidden["judgement"]["by_rater"]["rater 3"] == report["judgement"]["by_rater"][RATERS[0]]
    build_report(workspace, 1)
    for name in ("report.html", "report.json"):
        text = (workspace.round_dir(1) / name).read_text(encoding="utf-8")
        assert "example.org" not in text
        assert "rater 3" in text


def test_mistakes_have_their_pictures_and_missing_ones_are_counted(workspace: Workspace, image_ids: list[str]):
    report = fit_report(image_ids)
    workspace.image_path(image_ids[3]).unlink()
    report["mistakes"][2]["other"] = "../../etc/passwd"
    found = page_of(workspace, report).mistakes
    assert found is not None
    assert (len(found.rows), found.left_out, found.is_crisp) == (2, 2, True)
    preferred, other = found.rows[0].pictures
    assert preferred is not None
    assert other is not None
    assert re.fullmatch(r"rater \d’s choice", preferred.caption)
    assert other.caption.startswith(f"model: {100 * report['mistakes'][0]['probability']:.0f}")
    build_report(workspace, 1)
    html = (workspace.round_dir(1) / "report.html").read_text(encoding="utf-8")
    assert "Most confident mistakes" in html
    assert "2 mistakes not shown: the image files cannot be read." in html
    assert preferred.uri in html


def test_a_coin_is_told_how_many_more_would_settle_it(workspace: Workspace, image_ids: list[str]):
    coin = {"is_better_than_chance": False, "comparisons": 200}
    warning = page_of(workspace, fit_report(image_ids, needed=820, **coin)).warning
    assert "About 820 comparisons in all would probably settle it; so far there are 200." in warning
    hopeless = page_of(workspace, fit_report(image_ids, needed=None, **coin)).warning
    assert "Nothing in them says that more ratings of this kind would help." in hopeless
    old = fit_report(image_ids, **coin)
    del old["needed"]
    assert page_of(workspace, old).warning.endswith("means nothing.")
    assert page_of(workspace, fit_report(image_ids)).warning == ""


NEW = (
    "judgement zero_shot_judgement ceiling previous raters_fitted learning_curve needed mistakes drift answers".split()
)


@pytest.mark.long
@pytest.mark.parametrize("key", NEW)
@pytest.mark.parametrize("is_null", [True, False])
def test_any_part_may_be_missing_or_null(workspace: Workspace, image_ids: list[str], key: str, is_null: bool):
    report = fit_report(image_ids)
    del report[key]
    build_report_with(workspace, report | ({key: None} if is_null else {}))


def test_an_older_fit_report_has_its_old_page(workspace: Workspace, image_ids: list[str]):
    old = {key: value for key, value in fit_report(image_ids).items() if key not in NEW}
    page = page_of(workspace, old)
    assert page.measures == ()
    assert page.mistakes is None
    assert [panel.title for panel in page.panels][1:] == ["Choice of the linear head’s penalty"]
    assert page.legend == (("policy", "reward model"), ("muted", "zero-shot CLIP"))
    build_report_with(workspace, old)


def test_a_judgement_of_nothing_decided_is_shown_as_unknown(workspace: Workspace, image_ids: list[str]):
    pairs, difference = simulated()
    nothing = asdict(judge(replace(pairs, outcome=np.zeros(len(pairs), int)), difference))
    page = page_of(workspace, plain(json.loads(json.dumps(fit_report(image_ids, judgement=nothing)))))
    assert page.measures[0].values[0] == ("–", "")
    build_report_with(workspace, fit_report(image_ids, judgement=nothing))


def build_report_with(workspace: Workspace, report: dict[str, Any]) -> None:
    files_of(workspace, report)
    build_report(workspace, 1)
    html = (workspace.round_dir(1) / "report.html").read_text(encoding="utf-8")
    assert 'id="reward"' in html
