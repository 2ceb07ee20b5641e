"""The report of a round, from real files of invented rounds: what it says, what it leaves out, that it stands alone."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import stats

from data.bootstrap import Interval
from data.evaluation import ImageScore, best_of
from data.records import Judgement
from data.win_rates import blind_win_rates
from data.workspace import Workspace
from hitl.commands import report
from hitl.core.errors import WorkspaceError
from hitl.report import build_report, words
from hitl.report.advice import BY_VERDICT, advice
from hitl.report.blind import Blind
from hitl.report.files import read_round, read_rounds
from hitl.report.guards import guard_gaps, guard_looks
from hitl.report.judgement import change, falls, judge_round, judge_tasks
from hitl.report.pictures import is_crisp, rounds_shown, through_rounds
from hitl.report.provenance import provenance
from hitl.report.reward_agreement import reward_agreements
from hitl.report.reward_page import reward_page
from hitl.report.sections import distances, learning
from hitl.report.words import Ruler, Verdict, duration, listed, number, percents, story, tiny, verdict
from tests.fixtures.judged import make_scores, write_round


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "my <project>")


class _Page(HTMLParser):
    """What a browser would fetch, the text outside of style sheets, and whether every element is closed."""

    VOID = frozenset("meta img br link input".split())

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "poster")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def built(workspace: Workspace, number: int) -> tuple[_Page, dict[str, Any]]:
    path = build_report(workspace, number)
    assert path == workspace.round_dir(number) / "report.html"
    facts = json.loads((path.parent / "report.json").read_text(encoding="utf-8"))
    return _Page(path.read_text(encoding="utf-8")), facts


def told(workspace: Workspace, number: int) -> tuple[Verdict, str]:
    """The verdict and the story, without a page and its plots."""
    files = read_round(workspace, number)
    judged = judge_round(files)
    answers = story(judged, files.best_of, {})
    return verdict(judged, number), "\n".join(sentence for answer in answers for sentence in answer.sentences)


def test_a_clear_gain_on_held_out_prompts_is_called_better(workspace: Workspace):
    write_round(workspace, 1, make_scores("better"))
    page, facts = built(workspace, 1)
    assert facts["verdict"]["word"] == "Better"
    assert "On prompts it never trained on, round 1’s pictures are exactly right more often" in page.text
    assert facts["judged"]["held_out"]["exact"]["change"] == "up"
    assert "exact verdicts and taste rose with it." in page.text


def test_no_gain_is_called_no_clear_change(workspace: Workspace):
    write_round(workspace, 1, make_scores("same"))
    found, text = told(workspace, 1)
    assert (found.word, found.headline) == ("No clear change", "No clear change on prompts it never trained on.")
    assert "gold does not confirm it yet" in text  # the learned reward rose by itself


def test_a_reward_that_rises_while_gold_falls_is_called_reward_hacking(workspace: Workspace):
    write_round(workspace, 1, make_scores("worse"))
    found, text = told(workspace, 1)
    assert found == Verdict(
        word="Reward hacking",
        tone="bad",
        headline="The learned reward rose, but on prompts it never trained on, round 1’s pictures are exactly "
        "right less often and further from the stated taste (large shapes, light ground).",
    )
    assert "exact verdicts and taste fell, which is what reward hacking looks like" in text


def test_a_gain_on_trained_prompts_alone_is_not_sold_as_better(workspace: Workspace):
    held_out = make_scores("same", splits=("held_out",))
    write_round(workspace, 1, [*held_out, *make_scores("better", splits=("train",), seed=1)])
    found, _ = told(workspace, 1)
    assert found.word == "No clear change"
    assert found.headline.endswith("on prompts it never trained on, no clear change.")


def test_gains_and_losses_together_are_called_mixed(workspace: Workspace):
    scores = [
        replace(each, values={**each.values, "taste": each.values["taste"] - 0.9}) if each.subject == "policy" else each
        for each in make_scores("better")
    ]
    write_round(workspace, 1, scores)
    found, _ = told(workspace, 1)
    assert (found.word, found.tone) == ("Mixed", "mixed")
    assert "exactly right more often, but further from the stated taste" in found.headline


def test_without_gold_the_learned_reward_alone_proves_nothing(workspace: Workspace):
    write_round(workspace, 1, make_scores("better", gold=False))
    page, facts = built(workspace, 1)
    assert facts["verdict"]["word"] == "Unproven"
    assert "these prompts have no gold score" in page.text
    assert list(facts["judged"]["held_out"]) == ["reward"]


def with_more(scores: list[ImageScore], **more: Callable[[ImageScore], float]) -> list[ImageScore]:
    """The same scores with more measures."""
    return [replace(each, values={**each.values, **{name: of(each) for name, of in more.items()}}) for each in scores]


def is_policy(score: ImageScore) -> bool:
    return score.subject == "policy"


def test_without_gold_the_learned_reward_is_held_against_rewards_that_training_did_not_use(workspace: Workspace):
    scores = make_scores("better", gold=False)
    chance = np.random.default_rng(0)
    more = with_more(scores, clip_score=lambda each: chance.normal() - 9 * is_policy(each), pick=lambda _: 1.0)
    for n in (1, 2):
        folder = write_round(workspace, n, more)
        manifest = json.loads((folder / "evaluate" / "manifest.json").read_text())
        judges = {"clip_score": {"is_trained_on": False}, "pick": {"is_trained_on": True}}
        (folder / "evaluate" / "manifest.json").write_text(json.dumps(manifest | {"judges": judges}))
    page, _ = built(workspace, 2)
    group = learning(read_rounds(workspace, 2))[0]
    assert group.title == "Learned reward against the rewards that training did not use"
    assert [name for _, name in group.legend] == ["Learned reward", "CLIP score"]
    assert "Other rewards by learned reward" in [panel.title for panel in group.panels]
    assert "while they fall is being hacked" in " ".join(page.text.split())


def test_gains_stand_against_the_nats_of_a_trajectory_and_an_older_round_without_them_is_named(workspace: Workspace):
    """By hand: the policy's KL is 2 nats on every picture in round 2, and 5 in round 3."""
    write_round(workspace, 1, make_scores("better"))
    for n, nats in ((2, 2.0), (3, 5.0)):
        write_round(workspace, n, with_more(make_scores("better"), kl=lambda each, n=nats: n * is_policy(each)))
    rounds = read_rounds(workspace, 3)
    assert distances(rounds, "held_out") == ({2: 2.0, 3: 5.0}, "nats", [1])
    [note] = [panel.note for group in learning(rounds) for panel in group.panels if panel.title == "Gain by KL"]
    assert "without round 1, judged by an older version" in note
    assert distances(rounds[:1], "held_out") == ({1: 0.02}, "nats per step", [])


def test_one_prompt_gives_no_interval_and_no_verdict(workspace: Workspace):
    write_round(workspace, 1, make_scores("better", prompts=1, splits=("held_out",)))
    page, facts = built(workspace, 1)
    assert facts["verdict"]["word"] == "Cannot say"
    assert facts["judged"]["held_out"]["exact"]["gain"]["low"] is None  # nan is not JSON
    assert "no interval: one prompt" in page.text


def test_few_prompts_are_warned_of(workspace: Workspace):
    write_round(workspace, 1, make_scores("better", prompts=4))
    assert "prompts, so the intervals are wide: Student’s t." in told(workspace, 1)[1]


def test_a_missing_round_is_named_and_the_rest_is_shown(workspace: Workspace):
    write_round(workspace, 1, make_scores("same"))
    write_round(workspace, 3, make_scores("better", seed=3))
    page, facts = built(workspace, 3)
    assert "Round 2 has no folder: the curves leave it out." in page.text
    assert list(facts["gains_by_round"]) == ["1", "3"]
    assert "Instead of round" not in page.text


def test_half_a_round_gives_a_report_that_says_what_is_missing(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("better"))
    for stage in ("train", "evaluate"):
        (folder / stage / "manifest.json").unlink()
    page, facts = built(workspace, 1)
    assert facts["verdict"]["word"] == "Not judged"
    assert "The evaluate stage of round 1 is not finished: it is not judged." in facts["missing"]
    assert "The reward model" in page.text


@pytest.mark.parametrize("file", ["scores.parquet", "grid.npz"])
def test_a_damaged_file_costs_its_own_part_only(workspace: Workspace, file: str):
    folder = write_round(workspace, 1, make_scores("better"))
    (folder / "evaluate" / file).write_bytes(b"torn")
    page, facts = built(workspace, 1)
    assert facts["verdict"]["word"] == "Better"
    assert any(file in line for line in facts["missing"])
    assert "img" not in page.tags if file == "grid.npz" else "img" in page.tags


def test_a_torn_last_line_and_a_repeated_step_of_the_metrics_are_coped_with(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("better"))
    again = {"stage": "train", "step": 2, "total": 2, "metrics": {"reward_mean": 9.0}, "time": 1.7e9}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + '\n{"stage": "train", "st')
    rows = read_round(workspace, 1).stage_metrics("train")
    assert [row["metrics"]["reward_mean"] for row in rows] == [0.1, 9.0]


def test_without_held_out_prompts_the_report_says_what_that_leaves_open(workspace: Workspace):
    write_round(workspace, 1, make_scores("better", splits=("train",)))
    page, facts = built(workspace, 1)
    assert "was judged on no held-out prompts: nothing says whether it learned or remembers" in page.text
    assert "on the prompts it trained on" in facts["verdict"]["headline"].lower()


def test_a_round_without_its_checkpoint_is_reported_and_nobody_is_sent_to_it(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("better"))
    assert "Use this policy" in built(workspace, 1)[0].text
    shutil.rmtree(folder / "train" / "policy")
    page, facts = built(workspace, 1)
    assert facts["verdict"]["word"] == "Better"
    assert "The policy of round 1 is not in rounds/0001/train/policy" in page.text
    assert "Use this policy" not in page.text


def test_a_round_of_an_older_version_has_its_report_and_what_it_lacks_is_named(workspace: Workspace):
    """Before 0.1 a round was judged by the learned reward and gold alone, in a table with these columns."""
    for n in (1, 2):
        folder = write_round(workspace, n, make_scores("better", seed=n))
        old = workspace.manifest(n, "evaluate")
        assert old is not None
        del old["judges"]
        workspace.write_manifest(n, "evaluate", old)
        table = pq.read_table(folder / "evaluate" / "scores.parquet")
        columns = "subject prompt_id prompt task split index reward correctness exact taste".split()
        pq.write_table(table.select(columns), folder / "evaluate" / "scores.parquet")
    _, facts = built(workspace, 2)
    assert facts["verdict"]["word"] == "Better"
    lacks = "was judged by an older version, without diversity, KL in nats"
    assert [line for line in facts["missing"] if "older" in line] == [
        f"Round 1 {lacks} and rewards that training did not use. `hitl evaluate 1` measures them.",
        f"Round 2 {lacks}, rewards that training did not use and the policy it started from. "
        "`hitl evaluate 2` measures them.",
        "Nothing is known of how round 1 and round 2 fared while training: an older version kept no looks.",
    ]


@pytest.mark.parametrize("kept", [(), ("draw",), ("draw", "rate"), ("draw", "rate", "fit")], ids=str)
def test_a_round_that_is_not_judged_has_a_report_by_command(
    workspace: Workspace, kept: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    folder = write_round(workspace, 1, make_scores("better"))
    workspace.config_path.write_text("")
    for stage in {"draw", "rate", "fit", "train", "evaluate"} - {*kept}:
        shutil.rmtree(folder / stage)
    report.run(0, workspace.root, as_json=True)
    assert json.loads(capsys.readouterr().out)["round"] == 1
    facts = json.loads((folder / "report.json").read_text())
    assert facts["verdict"]["word"] == "Not judged"
    assert sum("is not finished" in line for line in facts["missing"]) == 5 - len(kept)


def test_the_curves_of_earlier_rounds_are_told_the_same_while_a_round_runs(workspace: Workspace):
    write_round(workspace, 1, make_scores("better", prompts=3))
    folder = write_round(workspace, 2, make_scores("better", prompts=3))
    shutil.rmtree(folder / "evaluate")
    page, _ = built(workspace, 2)
    assert "best of 4 of the reference" in page.text
    assert "Learned reward and gold should rise together" in page.text


def test_a_round_with_zero_votes_has_a_report(workspace: Workspace):
    write_round(workspace, 1, make_scores("same"), fit=False)
    none = {"seconds": 1.0, "ratings": 0, "comparisons": 0, "raters": 0, "simulated": 0, "snapshot": ""}
    workspace.write_manifest(1, "rate", none)
    page, _ = built(workspace, 1)
    assert "0 ratings by 0" in page.text
    assert "They cost 0 ratings" in page.text


def test_a_round_that_never_was_is_an_error(workspace: Workspace):
    write_round(workspace, 2, make_scores("same"))
    with pytest.raises(WorkspaceError, match="There is no round 5") as raised:
        build_report(workspace, 5)
    assert raised.value.hint == "The last round is 2."


def test_the_page_stands_alone_and_is_well_formed(workspace: Workspace):
    for n in (1, 2):
        write_round(workspace, n, make_scores("better", seed=n))
    html = build_report(workspace, 2).read_text(encoding="utf-8")
    page = _Page(html)
    assert page.open == []
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert "url(http" not in html
    assert "@import" not in html
    assert "script" not in page.tags
    assert "default-src 'none'" in html
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(ids)
    assert "#0a0b" not in html  # every stand-in colour became a variable of the page
    assert page.tags.count("svg") >= 10


def test_what_the_rounds_cost(workspace: Workspace):
    """By hand: a round takes 10 + 20 + 5 + 60 + 5 seconds, 48 ratings and 256 reward queries."""
    for n in (1, 2):
        write_round(workspace, n, make_scores("same", prompts=3))
    page, facts = built(workspace, 2)
    assert "2 rounds took 3 min 20 s; training was 60 % of it, judging 5 %." in page.text.replace("\u202f", " ")
    assert "They cost 96 ratings and 512 reward queries" in page.text
    assert facts["cost"]["2"] | {"comparisons": None} == {
        "total": 100.0,
        "shares": {"train": 0.6, "evaluate": 0.05},
        "ratings": 48,
        "comparisons": None,
        "drawn": 96,
        "reward_queries": 256,
    }


def test_names_and_prompts_are_escaped(workspace: Workspace):
    nasty = '<script>alert(1)</script> & "quotes"'
    scores = [
        replace(each, prompt=nasty, task="<b>") if each.prompt.endswith(" 0") else each
        for each in make_scores("better")
    ]
    folder = write_round(workspace, 1, scores)
    (folder / "config.toml").write_text('[model]\nname = "</pre><script>"\n')
    page, _ = built(workspace, 1)
    assert "script" not in page.tags
    assert nasty in page.text
    assert "my <project>" in page.text
    assert "</pre><script>" in page.text


def test_the_same_files_give_the_same_bytes_whatever_comes_later_but_ratings_of_its_pictures(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("better"))
    first = [build_report(workspace, 1).read_bytes(), (folder / "report.json").read_bytes()]
    later = write_round(workspace, 2, make_scores("worse"))
    for stage in ("rate", "fit"):
        shutil.rmtree(later / stage)
    assert [build_report(workspace, 1).read_bytes(), (folder / "report.json").read_bytes()] == first


def test_large_pictures_are_made_small_and_soft(workspace: Workspace):
    write_round(workspace, 1, make_scores("better", prompts=3), size=600)
    files = read_round(workspace, 1)
    assert not is_crisp([files])
    [held_out, *_] = through_rounds([files])
    pictures = [picture for row in held_out.rows for picture in row.pictures if picture]
    sides = [Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))).size for picture in pictures]
    assert set(sides) == {(256, 256)}
    assert all(picture.uri.startswith("data:image/jpeg;") for picture in pictures)


def test_the_pictures_of_every_round_are_there_once_and_one_that_was_not_drawn_is_said_so(workspace: Workspace):
    for n in (1, 2, 3):
        write_round(workspace, n, make_scores("better", seed=n))
    grid = workspace.round_dir(2) / "evaluate" / "grid.npz"
    with np.load(grid) as arrays:
        kept = {name: arrays[name][1:] for name in arrays.files}
    np.savez_compressed(grid, **kept)
    html = build_report(workspace, 3).read_text(encoding="utf-8")
    section = html[html.index('<section id="pictures"') : html.index('<section id="reward"')]
    uris = re.findall(r'src="(data:[^"]+)"', section)
    assert len(uris) == len(set(uris)) == 8 * 4 - 1  # eight prompts; the reference and three rounds, but for one
    assert section.count("not drawn in round 2") == 1
    assert re.findall(r'value="(\d)" class="to-\d"( checked)?', section) == [("1", ""), ("2", ""), ("3", " checked")]


def test_of_many_rounds_an_even_choice_is_shown_with_the_last(workspace: Workspace):
    for n in range(1, 21):
        write_round(workspace, n, make_scores("same", prompts=3, splits=("held_out",)))
    shown = [files.number for files in rounds_shown(read_rounds(workspace, 20))]
    assert shown == [1, 4, 6, 9, 12, 15, 17, 20]


def test_pictures_tell_the_verdict_on_them(workspace: Workspace):
    """The picture in the grid is the first image of its prompt, so the mark under it is that image's."""
    scores = make_scores("better")
    write_round(workspace, 1, scores)
    exact = {(each.subject, each.prompt): each.values["exact"] for each in scores if each.index == 0}
    for group in through_rounds([read_round(workspace, 1)]):
        for row in group.rows:
            before, after = row.pictures
            assert before is not None
            assert after is not None
            assert (before.is_exact, after.is_exact) == (
                bool(exact["reference", row.prompt]),
                bool(exact["policy", row.prompt]),
            )


def test_numbers_of_the_page_against_a_bootstrap_and_a_t_test(workspace: Workspace):
    """The gain is the plain mean of the paired differences, and its interval is near the t interval over prompts."""
    scores = make_scores("better", prompts=40, splits=("held_out",))
    write_round(workspace, 1, scores)
    judged = {each.measure.key: each for each in judge_round(read_round(workspace, 1))["held_out"]}
    by_place = {(s.subject, s.prompt_id, s.index): s.values["taste"] for s in scores}
    prompts = sorted({s.prompt_id for s in scores})
    gains = np.array([[by_place["policy", p, i] - by_place["reference", p, i] for i in range(4)] for p in prompts])
    found = judged["taste"].gain
    assert found.mean == pytest.approx(gains.mean())
    low, high = stats.t.interval(0.95, len(prompts) - 1, gains.mean(), stats.sem(gains.mean(1)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.3 * (high - low))


def picture_score(subject: str, prompt: int, index: int, split: str = "train", **values: float) -> ImageScore:
    return ImageScore(
        subject=subject,
        prompt_id=f"p{prompt}",
        prompt=f"prompt {prompt}",
        task="count",
        split=split,
        index=index,
        values=values,
    )


def ticks_of(svg: str) -> dict[float, float]:
    """A panel's numbers on the y axis -> where their lines are."""
    found = re.findall(
        r'd="M [\d.]+ ([\d.]+) L [\d.]+ \1 "[^>]*var\(--line\)[^>]*/> </g> <g/> <g> <text[^>]*>([^<]+)<', svg
    )
    return {float(label.replace("−", "-")): float(y) for y, label in found}


def test_levels_are_of_the_pictures_that_the_gain_is_of(workspace: Workspace):
    """Two prompts by hand. The reference has four pictures of each, the policy the first two. Exactly right are of the
    reference 1, 0, 1, 1 and 0, 0, 1, 1: of all eight 5/8, of the four that have a partner 1/4. Of the policy 1, 1 and
    1, 0: 3/4. So +50 points, from 25 % to 75 %; the reference's deviation is that of 1, 0, 0, 0: sqrt(3)/4. Over the
    reference's partners the best of 4 gains 0, 1 and 1, 1 where it is right in both prompts: 3/4.
    """
    right = {"reference": [[1, 0, 1, 1], [0, 0, 1, 1]], "previous": [[0, 0], [1, 0]], "policy": [[1, 1], [1, 0]]}
    scores = [
        picture_score(subject, p, i, exact=float(value), reward=float(i))
        for subject, prompts in right.items()
        for p, row in enumerate(prompts)
        for i, value in enumerate(row)
    ]
    scores += best_of([score for score in scores if score.subject == "reference"], 4)
    folder = write_round(workspace, 1, scores)
    files = read_round(workspace, 1)
    exact = {each.measure.key: each for each in judge_round(files)["train"]}["exact"]
    for each in (exact, judge_tasks(files, "train", "exact")["count"]):
        assert each.reference is not None
        assert each.policy is not None
        assert (each.reference.mean, each.reference.n, each.policy.mean, each.policy.n) == (0.25, 4, 0.75, 4)
        assert each.gain.mean == each.policy.mean - each.reference.mean
    assert exact.previous is not None
    assert exact.since_last is not None
    assert exact.policy is not None
    assert (exact.previous.mean, exact.since_last.mean) == (0.25, 0.5)
    assert exact.spread == pytest.approx(3**0.5 / 4)
    assert exact.best_gain is not None
    assert exact.best_gain.mean == 0.75
    (folder / "evaluate" / "scores.parquet").unlink()  # then nobody knows the level of those four
    [lost] = [each for each in judge_round(read_round(workspace, 1))["train"] if each.measure.key == "exact"]
    assert (lost.reference, lost.gain.mean) == (None, 0.5)


def test_a_measure_has_the_same_gain_in_every_chart_and_in_the_table(workspace: Workspace):
    """By hand: in round 1 the reference's rewards are 0 and 2, in round 2, by another model, 0 and 20: deviations 1 and
    10. The policy gains 1 and 20: +1 SD and +2 SD, although the newest round's deviation is ten times the first's.
    """
    for n, step in ((1, 1.0), (2, 10.0)):
        level = {"reference": 0.0, "policy": n * step}
        scores = [
            picture_score(subject, p, i, "held_out", reward=at + 2 * step * i, taste=0.5 * i)
            for subject, at in level.items()
            for p in range(6)
            for i in (0, 1)
        ]
        write_round(workspace, n, scores)
    rounds = read_rounds(workspace, 2)
    table = [Ruler.of(each.measure, each.spread).mean(each.gain) for each in judge_round(rounds[-1])["held_out"]]
    assert table[0] == "+2.00\u202fSD"
    against, by_measure = learning(rounds)
    for panel in (against.panels[0], next(each for each in by_measure.panels if each.title == "Learned reward")):
        colour = "reward" if panel is against.panels[0] else "policy"
        y = drawn(panel.svg, colour)[:, 1]
        ticks = ticks_of(panel.svg)
        low, high = min(ticks), max(ticks)
        at = [low + (each - ticks[low]) * (high - low) / (ticks[high] - ticks[low]) for each in y]
        assert at == pytest.approx([1, 2], abs=0.01)


def test_best_of_n_is_compared_prompt_by_prompt(workspace: Workspace):
    """Two prompts by hand. Reference tastes 0, 1 and 0, 0 with rewards 0, 5 and 0, 5: best-of-2 tastes 1 and 0.

    The policy tastes 1, 1 and 1, 0: over best-of-2 that is 0, 0, 1, 0, mean 1/4. Best-of-2 over the reference is 1, 0
    and 0, 0, mean 1/4.
    """
    taste = {"reference": [[0.0, 1.0], [0.0, 0.0]], "policy": [[1.0, 1.0], [1.0, 0.0]]}
    scores = [
        ImageScore(
            subject=subject,
            prompt_id=f"p{p}",
            prompt=f"prompt {p}",
            task="",
            split="held_out",
            index=i,
            values={"reward": 5.0 * i, "taste": taste[subject][p][i]},
        )
        for subject in ("reference", "policy")
        for p in (0, 1)
        for i in (0, 1)
    ]
    scores += best_of([score for score in scores if score.subject == "reference"], 2)
    write_round(workspace, 1, scores)
    judged = {each.measure.key: each for each in judge_round(read_round(workspace, 1))["held_out"]}
    over_best, best_gain = judged["taste"].over_best, judged["taste"].best_gain
    assert over_best is not None
    assert best_gain is not None
    assert (over_best.mean, over_best.clusters) == (0.25, 2)
    assert (best_gain.mean, best_gain.n) == (0.25, 4)
    assert best_gain.low <= best_gain.mean <= best_gain.high


def test_a_round_is_compared_with_the_policy_it_started_from_by_its_own_reward_model(workspace: Workspace):
    """The previous policy's pictures are the reference's, so that it gained what the policy gained over the reference;
    but for the learned reward, whose every score of them is 0.25 higher."""
    scores = make_scores("better")
    previous = [
        replace(score, subject="previous", values={**score.values, "reward": score.values["reward"] + 0.25})
        for score in scores
        if score.subject == "reference"
    ]
    write_round(workspace, 1, [*scores, *previous])
    judged = {each.measure.key: each for each in judge_round(read_round(workspace, 1))["train"]}
    assert judged["exact"].since_last == judged["exact"].gain
    since = judged["reward"].since_last
    assert since is not None
    assert since.mean == pytest.approx(judged["reward"].gain.mean - 0.25)


def test_settings_that_changed_are_told_with_the_commands_to_repeat(workspace: Workspace):
    for n in (1, 2):
        write_round(workspace, n, make_scores("better", prompts=2))
    found = provenance(read_rounds(workspace, 2))
    assert found.changes == ("Round 2: train.epochs 2 → 3",)
    assert found.commands[-1] == "hitl round -w repeat --n 2"
    assert dict(found.facts)["Snapshot of the ratings"] == f"{2:064x}"


def test_what_was_trained_on_is_told_where_it_is_not_the_fitted_reward_alone(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("better", prompts=2))
    assert "Trained on" not in dict(provenance(read_rounds(workspace, 1)).facts)
    (folder / "config.toml").write_text("[reward]\nclip_head = 1.0\njpeg_size = -0.1\n[fit]\npessimism = 2.0\n")
    told = dict(provenance(read_rounds(workspace, 1)).facts)["Trained on"]
    assert told == "1 × clip_head, -0.1 × jpeg_size, the fitted one less 2 of its standard deviations"


# -- the guard --------------------------------------------------------------------------------------------------------


def a_look(epoch: int, reward: float, judgement: float) -> dict[str, float]:
    ends = {"reward": reward, "judgement": judgement}
    return {"epoch": epoch, **ends} | {
        f"{name}_{end}": value + way * (epoch > 0) * 0.1
        for name, value in ends.items()
        for end, way in (("low", -1), ("high", 1))
    }


def guarded(workspace: Workspace, number: int, looks: list[dict[str, float]], **more: Any) -> None:
    """A round that was trained as long as its guard looked."""
    told = {"reason": "", "words": "", "kept": looks[-1]["epoch"], "judges": ["gold"], "prompts": 32, "looks": looks}
    epochs = {"epochs": looks[-1]["epoch"], "guard": told | more}
    workspace.write_manifest(number, "train", (workspace.manifest(number, "train") or {}) | epochs)


def drawn(svg: str, colour: str) -> np.ndarray:
    """Where a panel's markers of a colour are: rows of x and y, y downwards."""
    found = re.findall(
        rf'<use href="[^"]+" x="([^"]+)" y="([^"]+)" style="fill(?:-opacity: 0; stroke)?: var\(--{colour}\)', svg
    )
    return np.array(found, dtype=float)


STOPPED = "Training was stopped after epoch 5 of 50: gold fell. Kept is the one it started from."


def test_what_the_guard_did_is_in_the_story(workspace: Workspace):
    write_round(workspace, 1, make_scores("same", prompts=3))
    assert "Did the guard step in?" not in built(workspace, 1)[1]["story"]
    guarded(workspace, 1, [a_look(0, 0, 0), a_look(5, 0.2, -0.4)], words=STOPPED, reason="harm", kept=0)
    page, facts = built(workspace, 1)
    assert facts["story"]["Did the guard step in?"] == [STOPPED]
    assert STOPPED in page.text
    assert facts["guard"]["1"]["looks"][1]["judgement"] == -0.4
    guarded(workspace, 1, [a_look(0, 0, 0), a_look(5, 0.2, 0.1)])
    assert built(workspace, 1)[1]["story"]["Did the guard step in?"] == [
        "No: in 1 look while training, at 32 held-out prompts, gold did not clearly fall. It stops a training whose "
        "held-out pictures get worse."
    ]
    guarded(workspace, 1, [{"epoch": 0}, {"epoch": 5}], prompts=3)
    assert built(workspace, 1)[1]["story"]["Did the guard step in?"] == [
        "It could not: it looked at 3 held-out prompts, and of fewer than 5 nothing is concluded."
    ]


def test_the_guards_looks_stand_at_their_epochs_one_round_after_the_other(workspace: Workspace):
    """Round 1 looks at 0, 5 and 10, and round 2, from 10 on, at its own 0 and 5."""
    for n in (1, 2):
        write_round(workspace, n, make_scores("same", prompts=3))
    guarded(workspace, 1, [a_look(0, 0, 0), a_look(5, 0.2, 0.1), a_look(10, 0.5, 0.3)])
    guarded(workspace, 2, [a_look(0, 0, 0), a_look(5, 0.4, -0.6)], words=STOPPED, reason="hacking", kept=0)
    group = guard_looks(read_rounds(workspace, 2))
    assert group is not None
    assert group.legend[1] == ("policy", "judgement by gold, which training does not see")
    svg = group.panels[0].svg
    for colour, changes in (("policy", (0, 0.1, 0.3, 0, -0.6)), ("reward", (0, 0.2, 0.5, 0, 0.4))):
        x, y = drawn(svg, colour).T
        assert np.corrcoef(x, [0, 5, 10, 10, 15])[0, 1] == pytest.approx(1, abs=1e-6)
        assert np.corrcoef(y, changes)[0, 1] == pytest.approx(-1, abs=1e-6)
    np.testing.assert_allclose(drawn(svg, "ink"), drawn(svg, "policy")[[2, 3]], atol=1e-5)
    assert svg.count("stroke: var(--bad)") == 1
    unstopped = guard_looks(read_rounds(workspace, 1))
    assert unstopped is not None
    assert "var(--bad)" not in unstopped.panels[0].svg


def test_the_guards_last_look_is_drawn_with_its_interval_within_the_plot(workspace: Workspace):
    write_round(workspace, 1, make_scores("same", prompts=3))
    guarded(workspace, 1, [a_look(0, 0, 0), a_look(5, 0.2, 9.0)])
    group = guard_looks(read_rounds(workspace, 1))
    assert group is not None
    svg = group.panels[0].svg
    left, bottom, right, top = map(
        float, re.findall(r'd="M ([\d.]+) ([\d.]+) L ([\d.]+) \2 L \3 ([\d.]+) L \1 \4', svg)[1]
    )
    bars = re.findall(r'd="M ([\d.]+) ([\d.]+) L \1 ([\d.]+) "[^>]*stroke: var\(--(?:policy|reward)\)', svg)
    assert len(bars) == 4
    assert all(left < float(x) < right and top < float(y) < bottom for x, *ends in bars for y in ends)
    assert all(left < x < right for x, _ in drawn(svg, "reward"))
    assert "dasharray" not in svg  # a dashed line is a stop


def test_a_round_under_way_shows_what_its_guard_saw_so_far(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("same", prompts=3))
    shutil.rmtree(folder / "train")
    with (folder / "metrics.jsonl").open("a") as file:
        for look in (a_look(0, 0, 0), a_look(1, 0.1, 0.2)):
            file.write(json.dumps({"stage": "guard", "step": look.pop("epoch"), "metrics": look}) + "\n")
    group = guard_looks(read_rounds(workspace, 1))
    assert group is not None
    assert len(drawn(group.panels[0].svg, "policy")) == 2


def test_rounds_that_nobody_watched_are_named_with_the_reason(workspace: Workspace):
    for n, settings in enumerate(
        (
            "",
            "",
            "[guard]\non = false\n",
            "[guard]\non = true\n",
            '[guard]\non = true\n[train]\nalgorithm = "best_of_n"\n',
        ),
        start=1,
    ):
        (write_round(workspace, n, make_scores("same", prompts=3)) / "config.toml").write_text(settings)
    assert guard_gaps(read_rounds(workspace, 5)) == [
        "Nothing is known of how round 1 and round 2 fared while training: an older version kept no looks.",
        "Nothing is known of how round 3 fared while training: guard.on was false.",
        "Nothing is known of how round 4 fared while training: no prompt was held out.",
    ]
    assert guard_looks(read_rounds(workspace, 5)) is None


def test_a_reward_model_at_chance_is_warned_of(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("better", prompts=2))
    manifest = json.loads((folder / "fit" / "manifest.json").read_text())
    manifest["report"] |= {"accuracy": Interval(0.52, 0.45, 0.59, 200, 20).to_dict(), "is_better_than_chance": False}
    workspace.write_manifest(1, "fit", manifest)
    page = reward_page([read_round(workspace, 1)])
    assert page is not None
    assert "cannot be told from a coin" in page.warning


def test_an_older_round_without_a_fit_report_has_no_reward_page(workspace: Workspace):
    write_round(workspace, 1, make_scores("better", prompts=2), fit=False)
    assert reward_page([read_round(workspace, 1)]) is None


def test_an_interval_that_touches_zero_says_nothing_of_the_direction():
    nan = float("nan")
    assert change(Interval(0.1, 0.0, 0.2, 10, 5)) == "unclear"
    assert change(Interval(0.1, 0.01, 0.2, 10, 5)) == "up"
    assert change(Interval(-0.1, -0.2, -0.01, 10, 5)) == "down"
    assert change(Interval(0.1, nan, nan, 10, 1)) == "unknown"
    assert change(None) == "unknown"


def test_nothing_judged_is_said_so():
    assert verdict({}, 3).headline == "Round 3 is not judged yet."


def test_shares_of_a_whole_sum_to_a_hundred():
    """By hand: 53.6, 0.7 and 45.7 % are 53, 0 and 45, and two more for the largest remainders: .7 and .7, not .6."""
    assert percents([53.6, 0.7, 45.7]) == [53, 1, 46]
    assert percents([1, 1, 1]) == [34, 33, 33]


def test_numbers_as_they_are_written():
    assert number(-0.04, 1) == "0.0"
    assert number(-1.25, 1, sign=True) == "−1.2"
    assert number(2.0, 1, sign=True) == "+2.0"
    assert number(float("nan")) == "–"
    assert Ruler(100.0, 1, "points").ends(Interval(0.05, -0.012, 0.11, 9, 9)) == "−1.2 to +11.0"
    assert [duration(s).replace("\u202f", " ") for s in (0.42, 42, 185, 7810)] == [
        "0.4 s",
        "42 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert [tiny(value) for value in (3e-6, 0.02, 0.0)] == ["3 × 10⁻⁶", "0.02", "0"]


def test_the_report_needs_no_torch_gradio_or_duckdb(workspace: Workspace):
    """In a process of its own: the test run itself may have loaded them."""
    write_round(workspace, 1, make_scores("better", prompts=3))
    code = (
        "import sys; from pathlib import Path; from data.workspace import Workspace;"
        "from hitl.report import build_report;"
        "assert 'matplotlib' not in sys.modules; build_report(Workspace(Path(sys.argv[1])), 1);"
        "assert {'torch', 'gradio', 'duckdb'}.isdisjoint(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(workspace.root)], check=True, timeout=240, capture_output=True)


# -- blind votes ------------------------------------------------------------------------------------------------------


def vote(number: int, model: str, other: str, outcome: Literal["a", "b", "tie"], rater: str) -> Judgement:
    return Judgement(
        rating_id=f"{model}{number}{rater}",
        task_id=f"t{number}",
        round=2,
        study=None,
        kind="pairwise",
        prompt_id=f"p{number}",
        rater_id=rater,
        model=model,
        other=other,
        outcome=outcome,
        both_bad=False,
        left="a",
    )


def blind_votes() -> list[dict[str, Any]]:
    """Of 24 votes on 12 prompts by two raters the policy of round 1 wins 18, ties 2 and loses 4: 19 of 24."""
    wins, losses = (4 <= i < 22 for i in range(24)), (i >= 22 or i < 2 for i in range(24))
    votes = [
        vote(
            i // 2, "policy of round 1", "reference", "a" if won else "b" if lost else "tie", "ann" if i % 2 else "bob"
        )
        for i, (won, lost) in enumerate(zip(wins, losses, strict=True))
    ]
    return [asdict(each) for each in blind_win_rates(votes)]


def test_the_next_rounds_raters_judge_a_rounds_policy_blind(workspace: Workspace):
    write_round(workspace, 1, make_scores("better"))
    page, facts = built(workspace, 1)
    assert "Nobody has compared round 1’s pictures blind yet" in page.text
    assert facts["blind"] == []
    write_round(workspace, 2, make_scores("better"))
    rate = workspace.manifest(2, "rate")
    assert rate is not None
    workspace.write_manifest(2, "rate", rate | {"blind": blind_votes()})
    page, facts = built(workspace, 1)
    assert facts["blind"][0]["over_prompts"]["mean"] == pytest.approx(19 / 24)
    sentence = "The policy of round 1 won 79\u202f% ["
    assert sentence in page.text
    assert (
        "of 24 blind votes against the reference (ties as halves), by 2 raters: clearly preferred."
        in page.text.replace("\u202f", " ")
    )
    page, _ = built(workspace, 2)
    assert "Nobody has compared round 2’s pictures blind yet" in page.text
    assert sentence in page.text


def test_blind_ties_of_four_prompts_are_too_few_and_of_five_no_certainty_also_where_an_older_version_wrote_them(
    workspace: Workspace,
):
    """Older versions gave both rows the interval [0.5, 0.5]. A kind that makes up 1 - 0.025^(1/5) = 52 % of all may be
    missing among five prompts: 50 % ± 26."""
    write_round(workspace, 1, make_scores("better", prompts=3))
    half = {"mean": 0.5, "low": 0.5, "high": 0.5}
    rows = [
        {"model": "policy of round 1", "other": other, "ties": 1.0}
        | {"over_prompts": half | {"n": n, "clusters": n}, "over_raters": half | {"low": None, "n": n, "clusters": 1}}
        for other, n in (("reference", 4), ("policy of round 0", 5))
    ]
    workspace.write_manifest(2, "rate", {"seconds": 1.0, "ratings": 9, "blind": rows})
    page, facts = built(workspace, 1)
    assert facts["blind"][0]["over_prompts"] == {"mean": 0.5, "low": None, "high": None, "n": 4, "clusters": 4}
    text = page.text.replace("\u202f", " ")
    assert "won 50 % of 4 blind votes" in text
    assert "too few prompts to say (4; at least 5 are needed)" in text
    assert "won 50 % [24, 76] of 5 blind votes" in text
    assert "Blind votes" in page.text


# -- people and the reward model --------------------------------------------------------------------------------------


def test_the_next_rounds_ratings_judge_a_rounds_reward_model_on_its_policys_pictures(workspace: Workspace):
    folder = write_round(workspace, 1, make_scores("better", prompts=3))
    page, facts = built(workspace, 1)
    assert page.text.count("not rated yet: the next round asks") == 2
    assert {each["found"] for each in facts["reward_agreement"].values()} == {None}
    later = write_round(workspace, 2, make_scores("better", prompts=3))
    rate, fit = (workspace.manifest(2, stage) or {} for stage in ("rate", "fit"))
    votes = Interval(1.0, 1.0, 1.0, 9, 4)
    workspace.write_manifest(2, "rate", rate | {"reward_agreement": votes.to_dict()})
    pairs = {"accuracy": Interval(0.72, 0.6, 0.84, 77, 35).to_dict(), "round": 1, "pairs": 96}
    fit["report"] |= {"previous": pairs}
    workspace.write_manifest(2, "fit", fit)
    page, facts = built(workspace, 1)
    text = " ".join(page.text.replace("\u202f", " ").split())
    assert "72 % [60, 84] of 77 comparisons of its pictures on 35 prompts clearly better than a coin" in text
    assert "100 % of 9 blind votes on 4 prompts too few prompts to say (4; at least 5 are needed)" in text
    assert facts["reward_agreement"]["train"]["found"] == Interval(0.72, 0.6, 0.84, 77, 35).to_dict()
    assert facts["reward_agreement"]["held_out"]["found"]["low"] is None
    (later / "fit" / "manifest.json").unlink()
    assert "rated; the next round’s fit compares" in built(workspace, 1)[0].text
    (folder / "config.toml").write_text("[rate]\nblind = 0.0\n")
    shutil.rmtree(later)
    assert "nobody is asked: rate.blind is 0" in built(workspace, 1)[0].text


@pytest.mark.parametrize(
    ("rate", "fit", "expected"),
    [
        ({}, {}, ("an older version took the ratings", "the fit of round 2 compared nothing")),
        (
            {"reward_agreement": None},
            {"previous": {"round": 7, "accuracy": {"mean": 0.9, "low": 0.8, "high": 1.0, "n": 9, "clusters": 9}}},
            ("no blind vote decided", "the fit of round 2 compared nothing"),
        ),
    ],
)
def test_what_the_next_round_does_not_know_of_a_reward_model_is_said(
    workspace: Workspace, rate: dict[str, Any], fit: dict[str, Any], expected: tuple[str, str]
):
    write_round(workspace, 1, make_scores("better", prompts=3))
    found = reward_agreements(read_round(workspace, 1), {"rate": rate, "fit": {"report": fit}})
    assert [each.said for each in found.values()] == [f"not known: {each}" for each in expected]
    assert [each.found for each in found.values()] == [None, None]


def test_of_an_older_fit_on_five_prompts_all_right_is_no_certainty(workspace: Workspace):
    """Clopper and Pearson: 0.025^(1/5) is 48 %."""
    write_round(workspace, 1, make_scores("better", prompts=3))
    previous = {"round": 1, "accuracy": Interval(1.0, 1.0, 1.0, 8, 5).to_dict()}
    found = reward_agreements(read_round(workspace, 1), {"rate": {}, "fit": {"report": {"previous": previous}}})
    assert found["train"].said == "cannot be told from a coin"
    assert found["train"].found is not None
    assert found["train"].found.low == pytest.approx(0.478, abs=1e-3)


# -- whether to use it ------------------------------------------------------------------------------------------------


def said_blind(low: float, high: float, other: str = "reference") -> Blind:
    over = Interval((low + high) / 2, low, high, 40, 20)
    return Blind(model="policy of round 1", other=other, over_prompts=over, over_raters=over, ties=0.0)


def advised(workspace: Workspace, *blind: Blind, is_stopped: bool = False) -> str:
    files = read_round(workspace, 1)
    judged = judge_round(files)
    answer = advice(verdict(judged, 1), judged, blind, 1, files.best_of, is_stopped)
    assert answer is not None
    return " ".join(answer.sentences)


def test_a_better_model_is_to_be_used_unless_raters_prefer_the_reference(workspace: Workspace):
    write_round(workspace, 1, make_scores("better"))
    text = advised(workspace)
    assert text.startswith("Yes, by these judges")
    assert "Nobody has compared its pictures blind yet." in text
    assert "By taste, it beats drawing 4 pictures by the reference and keeping the best" in text
    assert "prefer its pictures" in advised(workspace, said_blind(0.6, 0.8))
    assert "no clear preference" in advised(workspace, said_blind(0.4, 0.8), said_blind(0.1, 0.2, "policy of round 0"))
    assert "too few prompts" in advised(workspace, said_blind(float("nan"), float("nan")))
    assert advised(workspace, said_blind(0.2, 0.4)).startswith("No: raters who compared them blind prefer")


def test_a_hacked_reward_and_a_stop_are_reasons_against_it_and_a_page_says_so_first(workspace: Workspace):
    write_round(workspace, 1, make_scores("worse"))
    text = advised(workspace, is_stopped=True)
    assert text.startswith("No: training has learned to please the reward model")
    assert text.endswith("The guard ended its training early; this is the best policy that it saw.")
    assert "best of" not in text
    page, facts = built(workspace, 1)
    assert next(iter(facts["story"])) == "Should it be used?"
    assert page.text.index("Should it be used?") < page.text.index("Held-out prompts")


def test_who_wants_to_use_it_instead_of_the_round_before_is_answered_and_what_was_lost_is_named(workspace: Workspace):
    """By hand. Six prompts of a task, two pictures each; the reference is right in the first. In the task count the
    policy is right in both, in location in none: +50 and -50 points. Its taste is 0.2 above the round before, and 0.1
    above the reference's.
    """
    right = {"reference": (1.0, 0.0), "previous": (1.0, 0.0)}
    taste = {"reference": 0.3, "previous": 0.2, "policy": 0.4}
    scores = [
        replace(
            picture_score(
                subject,
                p,
                i,
                "held_out",
                exact=right.get(subject, (1.0, 1.0) if p < 6 else (0.0, 0.0))[i],
                taste=taste[subject] + 0.1 * i,
                reward=0.0,
            ),
            task="count" if p < 6 else "location",
        )
        for subject in taste
        for p in range(12)
        for i in (0, 1)
    ]
    write_round(workspace, 2, scores)
    files = read_round(workspace, 2)
    found, looked = falls(files)
    assert [(task, each.measure.key, each.gain.mean) for task, each in found] == [("location", "exact", -0.5)]
    assert looked == 6  # exact and taste: all, count and location
    judged = judge_round(files)
    answer = advice(verdict(judged, 2), judged, (), 2, None, False, "people", (found, looked))
    assert answer is not None
    text = " ".join(answer.sentences).replace("\u202f", " ")
    assert "Instead of round 1’s? Yes: taste rose (+4.00 SD [+4.00, +4.00]); exact verdicts did not clearly" in text
    assert "Lost (held-out, task location): exactly right 50 → 0 %, −50.0 points [−50.0, −50.0], the only clear" in text
    assert "Not for people yet" not in text
    replaced = [
        score
        if score.subject != "previous"
        else replace(score, values={**score.values, "taste": score.values["taste"] + 0.195})
        for score in scores
    ]
    write_round(workspace, 3, replaced)
    judged = judge_round(read_round(workspace, 3))
    answer = advice(verdict(judged, 3), judged, (), 3, None, False, "simulated")
    assert answer is not None
    said = " ".join(answer.sentences).replace("\u202f", " ")
    assert said.startswith(
        "Not for people yet: none has judged it, and `hitl study new` asks some. By the programs that did, "
    )
    assert "Instead of round 2’s? Hardly: taste rose (+0.10 SD" in said  # 0.005 of a deviation of 0.05


def test_where_all_raters_are_programs_the_page_says_so_wherever_it_speaks_of_raters(workspace: Workspace):
    rate = {"seconds": 1.0, "ratings": 90, "raters": 2, "checks": 9, "snapshot": "", "agreement": {}}
    for n in (1, 2):
        write_round(workspace, n, make_scores("better", prompts=6))
        workspace.write_manifest(n, "rate", rate | {"simulated": 2, "blind": blind_votes() if n == 2 else []})
    page, facts = built(workspace, 1)
    text = " ".join(page.text.replace("\u202f", " ").split())
    assert "No person rated anything: all 90 ratings are by simulated raters" in text
    assert "Simulated raters who compared them blind prefer its pictures." in text
    assert "hitl study new asks some." in text
    assert "(ties as halves), by 2 simulated raters: clearly preferred." in text
    assert "The simulated raters answer by the same rules" in text
    assert "answers, times and agreement here are a program’s" in text
    assert "from 90 answers of the round, its ratings. 9 more were checks" in text
    assert "Do simulated raters see it?" in facts["story"]
    assert not re.search(r"\b[Pp]eople (see|prefer|who compared)", text)
    for n in (1, 2):
        workspace.write_manifest(n, "rate", rate | {"simulated": 0, "blind": blind_votes() if n == 2 else []})
    page, facts = built(workspace, 1)
    assert "imulated" not in page.text
    assert "People who compared them blind prefer its pictures." in page.text
    assert "Do people see it?" in facts["story"]
    workspace.write_manifest(1, "rate", rate | {"simulated": 1})
    assert "Some of the raters are programs" in built(workspace, 1)[0].text


def test_the_first_screen_has_the_judges_that_decide_and_the_rest_is_folded(workspace: Workspace):
    chance = np.random.default_rng(0)
    more = {"diversity": lambda each: 0.1 + 0.01 * each.index, "kl": lambda each: 2.0 * is_policy(each)}
    scores = with_more(make_scores("better"), **more)
    previous = [replace(each, subject="previous") for each in scores if each.subject == "reference"]
    write_round(workspace, 2, [*scores, *previous])
    found = judge_round(read_round(workspace, 2))["held_out"]
    assert [each.measure.key for each in words.deciding(found)] == ["correctness", "exact", "taste", "diversity"]
    assert [each.measure.key for each in words.rest(found)] == ["reward", "kl"]
    text = " ".join(built(workspace, 2)[0].text.split())
    assert "Reference untrained Round 1 Round 2 Best of 4 untrained Gain" in text
    without = with_more(make_scores("better", gold=False), clip_score=lambda _: chance.normal(), **more)
    write_round(workspace, 1, without)
    folder = workspace.round_dir(1) / "evaluate" / "manifest.json"
    folder.write_text(json.dumps(json.loads(folder.read_text()) | {"judges": {"clip_score": {}}}))
    found = judge_round(read_round(workspace, 1))["held_out"]
    assert [each.measure.key for each in words.deciding(found)] == ["clip_score", "diversity"]
    write_round(workspace, 1, make_scores("better", gold=False))
    assert [each.measure.key for each in words.deciding(judge_round(read_round(workspace, 1))["train"])] == ["reward"]


def test_less_diversity_is_warned_of(workspace: Workspace):
    scores = with_more(
        make_scores("better"), diversity=lambda each: 0.1 + 0.01 * each.index + 0.2 * (not is_policy(each))
    )
    write_round(workspace, 1, scores)
    assert "clearly more alike than the reference’s" in advised(workspace)


def test_every_verdict_has_its_advice(workspace: Workspace):
    """The words of `verdict`, found where they are written; a round that is not judged has none."""
    source = Path(words.__file__).read_text()
    source = source[source.index("def verdict(") : source.index("def _essential(")]
    found = {*re.findall(r'"([A-Z][a-z]+(?: [a-z]+)*)"', source)} - {"Not judged"}
    assert found == {*BY_VERDICT}
    assert advice(verdict({}, 1), {}, (), 1, None, False) is None


def test_what_best_of_n_does_better_is_said_before_what_it_does_worse(workspace: Workspace):
    """The reference's best picture is made exactly right and far from the taste."""
    scores = [
        replace(each, values={**each.values, "exact": 1.0, "taste": 0.1}) if each.subject == "best_of_4" else each
        for each in make_scores("same")
    ]
    scores = with_more(scores, taste=lambda each: each.values["taste"] + 0.2 * is_policy(each))
    write_round(workspace, 1, scores)
    text = advised(workspace)
    assert text.startswith("Yes, if taste is what you want")
    assert text.endswith("with no training, does better. By taste, it beats that.")
