"""Fitting from rows to files: what is learned, what is refused, and that equal rows give equal files."""

import dataclasses
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import UnidentifiedImageError
from safetensors.torch import load_file
from scipy.stats import ttest_1samp

from data.bootstrap import Interval, cluster_interval, interval
from data.snapshot import SCHEMA
from hitl.core.errors import ConfigError, ModelLoadError, NotEnoughRatings, RewardAtChance, StoreError, WorkspaceError
from reward_models.answers import answers_from_rows, compared, groups, read_snapshot, require_preferences, things_of
from reward_models.config import RewardFitConfig
from reward_models.fit import _weights, fit_reward
from reward_models.pretrain import ClipPretrainConfig, pretrain
from reward_models.report import FitReport, require_better_than_chance
from reward_models.rewards.clip_head import ClipHead
from reward_models.saved import FIT_FILE, HEAD_FILE

PROMPTS = tuple(f"{number} {colour} stars" for number in ("two", "three") for colour in ("red", "blue", "green"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny open_clip folder: the starter's shape after two steps, so its features are all but random."""
    folder = tmp_path_factory.mktemp("clip")
    pretrain(folder, ClipPretrainConfig(steps=2, batch_size=16, evaluate_scenes=2))
    return folder / "clip"


def picture(image_id: str) -> np.ndarray:
    """A grey square on black; its brightness and place come from the id."""
    rng = np.random.default_rng(zlib.crc32(image_id.encode()))
    pixels = np.zeros((64, 64, 3), np.uint8)
    y, x = rng.integers(0, 24, 2)
    pixels[y : y + 40, x : x + 40] = rng.integers(20, 256)
    return pixels


def brightness(image_id: str) -> float:
    return float(picture(image_id).max()) / 50


def make_rows(
    prompts=PROMPTS, *, per_prompt: int = 40, seed: int = 0, noise: float = 1.0, ties: float = 0.1
) -> list[dict]:
    """Rows of a snapshot, from a rater who likes bright pictures (or with infinite noise, nothing)."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in prompts:
        for _ in range(per_prompt):
            a, b = (f"{prompt}/{number}" for number in rng.choice(20, 2, replace=False))
            difference = (brightness(a) - brightness(b)) / noise
            outcome = "a" if rng.random() < 1 / (1 + np.exp(-difference)) else "b"
            rows.append(
                {
                    "round": 1,
                    "prompt": prompt,
                    "rater_id": "ann",
                    "image_a": a,
                    "image_b": b,
                    "outcome": "tie" if rng.random() < ties else outcome,
                    "left": str(rng.choice(["a", "b"])),
                }
            )
    return rows


def config_for(clip: Path, **changes) -> RewardFitConfig:
    return RewardFitConfig(**{"backbone": str(clip), "l2": (100.0, 10.0), "folds": 3} | changes)


def test_a_taste_is_learned_judged_and_beats_zero_shot(clip, tmp_path):
    rows = make_rows()
    report = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward", snapshot_sha="abc")
    assert report.head == "linear"
    assert report.accuracy.mean > 0.65
    assert report.accuracy.clusters == len(PROMPTS)
    assert report.is_better_than_chance
    assert report.accuracy.mean > report.zero_shot.mean
    assert report.gain.mean == pytest.approx(report.accuracy.mean - report.zero_shot.mean)
    assert report.ties == sum(row["outcome"] == "tie" for row in rows)
    require_better_than_chance(report)

    saved = json.loads((tmp_path / "reward" / FIT_FILE).read_text())
    assert saved["snapshot_sha"] == "abc"
    assert saved["candidates"][0]["log_evidence"].keys() == {"100", "10"}

    reward = ClipHead.load(tmp_path / "reward")
    dark, bright = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    dark[10:50, 10:50], bright[10:50, 10:50] = 40, 240
    scores = reward(torch.from_numpy(np.stack([dark, bright])).permute(0, 3, 1, 2), [PROMPTS[0]] * 2)
    assert scores[1] > scores[0]


def test_scores_have_mean_0_and_std_1_on_the_reference_images(clip, tmp_path):
    reference = [(f"{prompt}/{number}", prompt) for prompt in PROMPTS for number in range(100, 108)]
    cache, folder = tmp_path / "cache", tmp_path / "reward"
    fit_reward(make_rows(), picture, config_for(clip), cache, folder, reference_images=reference)
    images = torch.from_numpy(np.stack([picture(image_id) for image_id, _ in reference])).permute(0, 3, 1, 2)
    scores = ClipHead.load(folder)(images, [prompt for _, prompt in reference])
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_pessimism_takes_standard_deviations_off_and_needs_a_model_that_has_them(clip, tmp_path):
    folder = tmp_path / "reward"
    fit_reward(make_rows(), picture, config_for(clip), tmp_path / "cache", folder)
    images = torch.from_numpy(np.stack([picture(f"{number}") for number in range(6)])).permute(0, 3, 1, 2)
    prompts = [PROMPTS[0]] * 6
    plain, careful = ClipHead.load(folder), ClipHead.load(folder, pessimism=2.0)
    mean, deviation = plain.with_deviation(images, prompts)
    assert (deviation > 0).all()
    torch.testing.assert_close(plain(images, prompts), mean)
    torch.testing.assert_close(careful(images, prompts), mean - 2 * deviation)

    saved = json.loads((folder / FIT_FILE).read_text())
    del saved["typical_deviation"]
    (folder / FIT_FILE).write_text(json.dumps(saved))
    ClipHead.load(folder)
    with pytest.raises(ModelLoadError, match="does not know how sure it is"):
        ClipHead.load(folder, pessimism=2.0)


def test_the_last_rounds_model_is_judged_on_new_pairs_and_the_drift_on_the_probe(clip, tmp_path):
    first, cache = make_rows(per_prompt=20), tmp_path / "cache"
    fit_reward(first, picture, config_for(clip), cache, tmp_path / "one")
    probe = [(f"{prompt}/{number}", prompt) for prompt in PROMPTS for number in range(4)]
    rows = [*first, *(row | {"round": 2} for row in make_rows(per_prompt=10, seed=1))]
    report = fit_reward(
        rows, picture, config_for(clip), cache, tmp_path / "two", probe=probe, previous=tmp_path / "one"
    )
    assert report.previous is not None
    assert report.previous.round == 1
    assert report.previous.pairs == 60
    assert report.previous.accuracy.mean > 0.6
    assert report.drift is not None
    assert report.drift.images == 24
    assert report.drift.agreement.mean > 0.5
    same = fit_reward(
        first, picture, config_for(clip), cache, tmp_path / "again", probe=probe, previous=tmp_path / "one"
    )
    assert same.previous is None  # there is no newer round
    assert same.drift is not None
    assert same.drift.agreement.mean == pytest.approx(1.0)
    assert same.drift.shift == pytest.approx(0.0, abs=1e-6)


def test_equal_rows_give_equal_bytes_and_a_second_fit_reads_no_pixels(clip, tmp_path):
    def no_pixels(image_id: str) -> np.ndarray:
        raise AssertionError(f"{image_id} was read again")

    rows, config = make_rows(per_prompt=12), config_for(clip)
    fit_reward(rows, picture, config, tmp_path / "cache", tmp_path / "one")
    fit_reward(rows, no_pixels, config, tmp_path / "cache", tmp_path / "two")
    for name in (HEAD_FILE, FIT_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_damaged_feature_file_is_computed_again(clip, tmp_path):
    rows, config = make_rows(per_prompt=12), config_for(clip)
    fit_reward(rows, picture, config, tmp_path / "cache", tmp_path / "one")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    fit_reward(rows, picture, config, tmp_path / "cache", tmp_path / "two")
    assert (tmp_path / "one" / HEAD_FILE).read_bytes() == (tmp_path / "two" / HEAD_FILE).read_bytes()


def test_a_coin_is_refused_unless_forced(clip, tmp_path):
    rows = make_rows(noise=float("inf"))
    report = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    assert not report.is_better_than_chance
    with pytest.raises(RewardAtChance, match="cannot be told from a coin"):
        require_better_than_chance(report)
    require_better_than_chance(report, forced=True)


@pytest.mark.parametrize("clusters", [3, 6, 12])
def test_of_few_prompts_the_interval_is_students(clusters):
    """Prompts of equal size: the interval is that of scipy's t-test on the prompts' means."""
    rng = np.random.default_rng(clusters)
    values = (rng.random((clusters, 8)) < 0.6).astype(float)
    ours = interval(values.ravel(), np.repeat(np.arange(clusters), 8), seed=0)
    theirs = ttest_1samp(values.mean(1), 0.5).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert (ours.n, ours.clusters) == (8 * clusters, clusters)


def test_a_coin_passes_about_as_often_as_it_should_with_few_prompts():
    """2.5 % are to pass; the bootstrap would let 8 % through here. Of 2,000 coins 1.6 % to 4 % is chance."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(5), 12)
    passed = sum(interval((rng.random(60) < 0.5).astype(float), group, seed=0).low > 0.5 for _ in range(2000))
    assert 32 <= passed <= 80


def test_of_many_prompts_it_is_the_bootstraps_somewhat_wider():
    """Of 20 prompts by sqrt(20/19) for the variance and 2.093/1.960 for Student's quantile: 1.0957."""
    values, group = np.arange(80) % 3 / 2, np.repeat(np.arange(20), 4)
    ours, theirs = interval(values, group, seed=3), cluster_interval(values, group.tolist(), seed=3)
    assert (ours.mean, ours.n, ours.clusters) == (theirs.mean, theirs.n, theirs.clusters)
    assert ours.mean - ours.low == pytest.approx(1.0957 * (theirs.mean - theirs.low), rel=1e-4)
    assert ours.high - ours.mean == pytest.approx(1.0957 * (theirs.high - theirs.mean), rel=1e-4)


def with_accuracy(report: FitReport, accuracy: Interval, **changes) -> FitReport:
    return dataclasses.replace(report, accuracy=accuracy, **changes)


def test_too_few_prompts_are_refused_for_that_reason_however_well_they_go(clip, tmp_path):
    rows = make_rows(PROMPTS[:2], per_prompt=30, noise=0.1)
    report = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    all_right = with_accuracy(report, Interval(1.0, 1.0, 1.0, 54, 2))
    with pytest.raises(RewardAtChance, match="of 2 prompts, and at least 5 are needed") as refusal:
        require_better_than_chance(all_right)
    assert "ratings of more prompts" in refusal.value.hint
    one = with_accuracy(report, Interval(1.0, math.nan, math.nan, 54, 1), held_out_by="images")
    with pytest.raises(RewardAtChance, match="of 1 sets of images"):
        require_better_than_chance(one)
    require_better_than_chance(with_accuracy(report, Interval(0.8, 0.6, 1.0, 54, 5)))


def test_the_mlp_is_tried_from_the_number_of_comparisons_on(clip, tmp_path):
    rows = make_rows(PROMPTS[:3], per_prompt=20)
    report = fit_reward(rows, picture, config_for(clip, mlp_from=60, folds=2), tmp_path / "cache", tmp_path / "reward")
    assert [candidate.head for candidate in report.candidates] == ["linear", "mlp", "ensemble"]
    best = min(report.candidates, key=lambda candidate: candidate.log_loss)
    assert report.head == best.head
    ClipHead.load(tmp_path / "reward")


def test_one_prompt_is_judged_by_images_that_share_no_comparison():
    rows = make_rows(PROMPTS[:1], per_prompt=1)
    rows = [rows[0] | {"image_a": f"{n}a", "image_b": f"{n}b", "outcome": "a"} for n in range(6)]
    rows.append(rows[0] | {"image_a": "0a", "image_b": "1b"})
    answers = answers_from_rows(rows)
    things = things_of(answers)
    group, by = groups(answers, things)
    assert by == "images"
    group = dict(zip([image for image, _ in things], group.tolist(), strict=True))
    assert group["0a"] == group["0b"] == group["1a"] == group["1b"]
    assert len(set(group.values())) == 5


def test_what_cannot_be_fitted_says_so():
    row = make_rows(PROMPTS[:1], per_prompt=1)[0]
    for rows, words in (([], "0 answers"), ([row | {"outcome": "tie"}], "none of them prefers")):
        answers = answers_from_rows(rows)
        with pytest.raises(NotEnoughRatings, match=words):
            require_preferences(answers, compared(answers, things_of(answers)))
    one = answers_from_rows([row | {"outcome": "a"}])
    with pytest.raises(NotEnoughRatings, match="hang together"):
        groups(one, things_of(one))


def test_an_image_against_itself_is_left_out():
    row = make_rows(PROMPTS[:1], per_prompt=1)[0] | {"outcome": "b"}
    assert len(answers_from_rows([row, row | {"image_a": row["image_b"]}])) == 1


def test_a_missing_image_is_named(clip, tmp_path):
    def missing(image_id: str) -> np.ndarray:
        raise FileNotFoundError(image_id)

    with pytest.raises(WorkspaceError, match=r"cannot be read"):
        fit_reward(make_rows(per_prompt=2), missing, config_for(clip), tmp_path / "cache", tmp_path / "reward")


def test_a_model_of_another_backbone_is_refused(clip, tmp_path):
    fit_reward(make_rows(per_prompt=12), picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    path = tmp_path / "reward" / FIT_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 16}))
    with pytest.raises(ModelLoadError, match="another version of the backbone"):
        ClipHead.load(tmp_path / "reward")
    (tmp_path / "reward" / HEAD_FILE).unlink()
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        ClipHead.load(tmp_path / "reward")


def test_a_snapshot_is_read_by_its_columns(tmp_path):
    rows = make_rows(per_prompt=2)
    pq.write_table(pa.Table.from_pylist([row | {"task": "count"} for row in rows]), tmp_path / "snapshot.parquet")
    assert read_snapshot(tmp_path / "snapshot.parquet") == [row | {"task": "count"} for row in rows]
    (tmp_path / "snapshot.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="cannot be read"):
        read_snapshot(tmp_path / "snapshot.parquet")


@pytest.mark.parametrize(
    "wrong", [{"heads": ("forest",)}, {"heads": ()}, {"l2": ()}, {"l2": (0.0,)}, {"folds": 1}, {"batch_size": 0}]
)
def test_settings_that_cannot_be_used_are_named(wrong):
    with pytest.raises(ConfigError, match=f"fit.{next(iter(wrong))}"):
        RewardFitConfig(**wrong)


def test_the_refusal_says_how_many_more_would_settle_it(clip, tmp_path):
    rows = make_rows(noise=float("inf"), per_prompt=6)
    report = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    report = dataclasses.replace(report, comparisons=100, needed=400)
    for clusters, is_few in ((6, True), (20, False)):
        with pytest.raises(RewardAtChance) as refusal:
            require_better_than_chance(with_accuracy(report, Interval(0.55, 0.45, 0.65, 100, clusters)))
        assert "about 300 comparisons more, 400 in all, would probably settle it" in refusal.value.hint
        assert ("best of more than these 6 prompts" in refusal.value.hint) == is_few
    with pytest.raises(RewardAtChance) as refusal:
        require_better_than_chance(with_accuracy(report, Interval(0.45, 0.35, 0.55, 100, 20), needed=None))
    assert "in all" not in refusal.value.hint


# -- all that people are asked, several rounds and raters --------------------------------------------------------------


def read_report(folder: Path) -> dict:
    """What `fit.json` says: JSON without nan or infinity, and with a number wherever one is promised."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"fit.json has {constant}")

    found = json.loads((folder / FIT_FILE).read_text(), parse_constant=refuse)
    numbers = [found[name] for name in ("side_bias", "mean", "std", "typical_deviation", "comparisons", "truncated")]
    numbers += [found[name]["mean"] for name in ("accuracy", "zero_shot", "gain")]
    numbers += [found["judgement"][name]["mean"] for name in ("accuracy", "macro", "brier", "ece")]
    for rater in found["raters_fitted"].values():
        numbers += [rater["reliability"], rater["reliability_se"], rater["answers"]]
    for candidate in found["candidates"]:
        numbers += [candidate["log_loss"], *candidate["log_evidence"].values()]
    numbers += [*found["form_slopes"].values(), *(point["accuracy"]["mean"] for point in found["learning_curve"])]
    assert all(isinstance(number, int | float) for number in numbers), numbers
    assert found["std"] > 0
    return found


def scores_of(folder: Path, *levels: int) -> np.ndarray:
    """Scores of a square of each brightness."""
    pictures = np.zeros((len(levels), 64, 64, 3), np.uint8)
    for number, level in enumerate(levels):
        pictures[number, 10:50, 10:50] = level
    scores = ClipHead.load(folder)(torch.from_numpy(pictures).permute(0, 3, 1, 2), [PROMPTS[0]] * len(levels))
    assert torch.isfinite(scores).all()
    return scores.numpy()


def other_rows(rng: np.random.Generator, per_prompt: int) -> list[dict]:
    """Rankings of four with ties and with only the best named, grades from 1 to 5, and labels, for bright pictures."""
    rows = []
    for prompt in PROMPTS:
        for number in range(per_prompt):
            images = [f"{prompt}/{each}" for each in rng.choice(20, 4, replace=False)]
            seen = [brightness(each) + rng.logistic() for each in images]
            order = (-np.array(seen)).argsort().argsort() + 1
            best = [1 if rank == 1 else None for rank in order]
            row = {"round": 1, "prompt": prompt, "rater_id": str(rng.choice(["bob", "cy"])), "left": None}
            row |= {"image_a": None, "image_b": None, "outcome": None, "images": images, "levels": None}
            rows.append(row | {"values": [min(int(rank), 3) for rank in order] if number % 2 else best})
            values = [int(np.clip(round(each), 1, 5)) for each in seen]
            rows.append(row | {"values": values, "levels": 5})
            rows.append(row | {"values": [1 + (value > 2) for value in values], "levels": 2})
    return rows


def test_all_that_people_are_asked_goes_into_one_fit(clip, tmp_path):
    """Pairs, some both bad, rankings, grades and labels, through a snapshot as the store writes it."""
    rows = [row | {"both_bad": row["outcome"] == "tie" and n % 2 == 0} for n, row in enumerate(make_rows(per_prompt=8))]
    rows += other_rows(np.random.default_rng(0), 3)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "snapshot.parquet")
    again = read_snapshot(tmp_path / "snapshot.parquet")
    report = fit_reward(again, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    bad = sum(bool(row.get("both_bad")) for row in rows)
    assert bad > 0
    assert report.answers == {"pairs": 48, "rankings": 18, "grades": 18, "labels": 18, "both_bad": bad}
    assert report.form_slopes.keys() == {"comparison", "grade", "label"}
    assert report.raters_fitted.keys() == {"ann", "bob", "cy"}
    assert report.accuracy.mean > 0.6
    read_report(tmp_path / "reward")
    assert np.diff(scores_of(tmp_path / "reward", 40, 240)) > 0


def test_every_rater_of_the_same_pair_is_kept(clip, tmp_path):
    rows = [row | {"rater_id": name} for row in make_rows(per_prompt=6) for name in ("ann", "bob", "cy")]
    report = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    assert (report.comparisons, report.raters) == (len(rows), 3)
    assert {name: rater.answers for name, rater in report.raters_fitted.items()} == dict.fromkeys(
        ["ann", "bob", "cy"], 36
    )
    assert report.ceiling is not None
    assert report.ceiling.human.mean == 1.0  # they say the same
    read_report(tmp_path / "reward")


def test_ratings_of_earlier_rounds_count_less_when_they_are_told_to(clip, tmp_path):
    """Raters who liked bright pictures for one round, and dark ones as firmly in the next with half as many answers."""
    opposite = {"a": "b", "b": "a", "tie": "tie"}
    rows = make_rows(per_prompt=16) + [
        row | {"round": 2, "outcome": opposite[row["outcome"]]} for row in make_rows(per_prompt=8, seed=1)
    ]
    for replay, direction in ((1.0, 1), (0.1, -1)):
        folder = tmp_path / str(replay)
        report = fit_reward(rows, picture, config_for(clip, replay=replay), tmp_path / "cache", folder)
        assert report.rounds == 2
        assert np.diff(scores_of(folder, 40, 240)) * direction > 0


def test_a_pair_counts_in_the_judgement_by_the_inverse_of_its_propensity_within_its_round():
    """Propensities 1/2 and 1/4: 2 and 4, of mean 3. A round whose pairs were chosen evenly counts them as they are."""
    rows = [
        row | {"round": round, "propensity": propensity}
        for row, round, propensity in zip(make_rows(), (1, 1, 2, 2), (0.5, 0.25, 0.1, 0.1), strict=False)
    ]
    found = weights_of(rows)
    assert found is not None
    assert found.tolist() == pytest.approx([2 / 3, 4 / 3, 1, 1])
    assert weights_of(rows[2:]) is weights_of([*map(without, rows)]) is None


def weights_of(rows: list[dict]) -> np.ndarray | None:
    answers = answers_from_rows(rows)
    return _weights(answers, compared(answers, things_of(answers)))


def without(row: dict) -> dict:
    """As a snapshot of before there were propensities has it."""
    return {name: value for name, value in row.items() if name != "propensity"}


def test_uneven_propensities_change_how_a_fit_is_judged_and_not_what_it_is(clip, tmp_path):
    rows = make_rows()
    uneven = [row | {"propensity": (0.1, 0.9)[number % 2]} for number, row in enumerate(rows)]
    plain, weighed = (
        fit_reward(each, picture, config_for(clip), tmp_path / "cache", tmp_path / name)
        for each, name in ((rows, "plain"), (uneven, "weighed"))
    )
    assert (tmp_path / "plain" / HEAD_FILE).read_bytes() == (tmp_path / "weighed" / HEAD_FILE).read_bytes()
    assert plain.accuracy.n == weighed.accuracy.n
    assert plain.accuracy.mean != weighed.accuracy.mean


def test_a_round_is_compared_with_the_one_before(clip, tmp_path):
    """The earlier model on the newest round's pairs, and both on images that never change."""
    rows = make_rows(per_prompt=12)
    probe = [(f"{prompt}/{number}", prompt) for prompt in PROMPTS for number in range(100, 106)]
    first = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "one", probe=probe)
    assert (first.previous, first.drift) == (None, None)
    rows += [row | {"round": 2} for row in make_rows(per_prompt=12, seed=1)]
    second = fit_reward(
        rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "two", probe=probe, previous=tmp_path / "one"
    )
    assert second.previous is not None
    assert second.drift is not None
    assert (second.previous.round, second.previous.pairs) == (1, 72)
    assert second.previous.accuracy.mean > 0.6
    assert second.drift.images == len(probe)
    assert second.drift.agreement.mean > 0.5
    read_report(tmp_path / "two")


def test_a_network_begins_from_the_round_befores(clip, tmp_path):
    rows = make_rows(PROMPTS[:3], per_prompt=30)
    settings = {"heads": ("mlp",), "mlp_from": 1, "folds": 2}
    folders = [tmp_path / name for name in ("one", "warm", "cold")]
    fit_reward(rows, picture, config_for(clip, **settings, seed=1), tmp_path / "cache", folders[0])
    for folder, is_warm in zip(folders[1:], (True, False), strict=True):
        config = config_for(clip, **settings, warm_start=is_warm)
        fit_reward(rows, picture, config, tmp_path / "cache", folder, previous=folders[0])
    earlier, warm, cold = (load_file(folder / HEAD_FILE)["network.0.weight"].flatten() for folder in folders)
    assert torch.corrcoef(torch.stack([earlier, warm]))[0, 1] > 0.5
    assert torch.corrcoef(torch.stack([earlier, cold]))[0, 1] < 0.3


# -- bad input -------------------------------------------------------------------------------------------------------


def test_a_model_of_another_backbone_is_neither_compared_with_nor_begun_from(clip, tmp_path):
    rows = make_rows(per_prompt=6) + [row | {"round": 2} for row in make_rows(per_prompt=6, seed=1)]
    one, two = tmp_path / "one", tmp_path / "two"
    fit_reward(rows, picture, config_for(clip), tmp_path / "cache", one)
    (one / FIT_FILE).write_text(json.dumps(json.loads((one / FIT_FILE).read_text()) | {"fingerprint": "0" * 16}))
    report = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", two, previous=one)
    assert (report.previous, report.drift) == (None, None)
    read_report(two)


def test_features_of_another_backbone_are_never_read(clip, tmp_path):
    """Two backbones share a folder of features: each finds its own alone."""
    seen: list[str] = []

    def counted(image_id: str) -> np.ndarray:
        seen.append(image_id)
        return picture(image_id)

    rows = make_rows(per_prompt=6)
    fit_reward(rows, counted, config_for(clip), tmp_path / "cache", tmp_path / "one")
    first = len(seen)
    assert first == len({*seen})  # once each
    report = fit_reward(rows, counted, config_for(clip, backbone="starter"), tmp_path / "cache", tmp_path / "two")
    assert len(seen) == 2 * first
    assert report.fingerprint != json.loads((tmp_path / "one" / FIT_FILE).read_text())["fingerprint"]


@pytest.mark.parametrize("broken", ["unreadable", "grey", "float", "none"])
def test_an_image_that_cannot_be_used_is_named(broken, clip, tmp_path):
    rows = make_rows(per_prompt=2)
    bad = rows[5]["image_a"]

    def load(image_id: str) -> np.ndarray:
        if image_id != bad:
            return picture(image_id)
        if broken == "unreadable":
            raise UnidentifiedImageError("cannot identify image file")
        return {"grey": np.zeros((64, 64), np.uint8), "float": np.zeros((64, 64, 3)), "none": np.array(None)}[broken]

    with pytest.raises(WorkspaceError, match=bad[:12]) as refusal:
        fit_reward(rows, load, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    assert refusal.value.hint
    assert not (tmp_path / "reward" / FIT_FILE).exists()


def test_pictures_of_two_sizes_are_both_seen(clip, tmp_path):
    def load(image_id: str) -> np.ndarray:
        pixels = picture(image_id)
        pixels = pixels if int(image_id[-1]) % 2 else pixels.repeat(2, 0).repeat(3, 1)[:, :160]
        sizes.add(pixels.shape[:2])
        return pixels

    sizes: set[tuple[int, ...]] = set()
    report = fit_reward(make_rows(per_prompt=6), load, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    assert len(sizes) == 2
    assert report.accuracy.mean > 0.5
    read_report(tmp_path / "reward")


def test_prompts_that_are_cut_off_are_counted_and_said_once(clip, tmp_path, caplog):
    long = [f"{prompt} {'and a very long story ' * 30}" for prompt in PROMPTS[:2]]
    rows = make_rows((*PROMPTS[:3], *long), per_prompt=6)
    report = fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    assert report.truncated == 2
    said = [record.message for record in caplog.records if "longer than" in record.message]
    assert len(said) == 1
    assert said[0].startswith("2 of 5 prompts are longer than")
    read_report(tmp_path / "reward")
    caplog.clear()
    fit_reward(make_rows(per_prompt=6), picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    assert "longer than" not in caplog.text


def one_sided(rows: list[dict], outcome: str) -> list[dict]:
    return [row | {"outcome": outcome} for row in rows]


def apart(rows: list[dict]) -> list[dict]:
    """Every pair of images of its own."""
    return [row | {each: f"{row[each]}/{n}{each}" for each in ("image_a", "image_b")} for n, row in enumerate(rows)]


STRANGE: dict[str, list[dict]] = {
    "no ties": make_rows(per_prompt=6, ties=0.0),
    "mostly ties": [row | ({"outcome": "tie"} if n else {"outcome": "a"}) for n, row in enumerate(make_rows())][:60],
    "mostly both bad": [
        row | {"outcome": "a" if n % 12 == 0 else "tie", "both_bad": n % 12 > 0}
        for n, row in enumerate(make_rows(per_prompt=6))
    ],
    "always the first": one_sided(make_rows(per_prompt=6), "a"),
    "always the left": [row | {"outcome": row["left"]} for row in make_rows(per_prompt=6)],
    "sides unknown": [row | {"left": None} for row in make_rows(per_prompt=6)],
    "no two pairs share an image": apart(make_rows(per_prompt=6)),
    "one prompt": apart(make_rows(PROMPTS[:1], per_prompt=20)),
    "two prompts, an answer each": make_rows(PROMPTS[:2], per_prompt=1, ties=0.0),
    "a rater for each answer": [row | {"rater_id": f"r{n}"} for n, row in enumerate(make_rows(per_prompt=3))],
    "a rater who only ties": make_rows(per_prompt=6)
    + [row | {"rater_id": "bob"} for row in one_sided(make_rows(per_prompt=2, seed=1), "tie")],
    "all but one turned round": make_rows(per_prompt=6)
    + [
        row | {"rater_id": name, "outcome": {"a": "b", "b": "a"}.get(row["outcome"], "tie")}
        for name in ("bob", "cy")
        for row in make_rows(per_prompt=6, seed=1)
    ],
    "one pair again and again": [make_rows(per_prompt=1, ties=0.0)[n % 2 * 3] for n in range(80)],
    "an empty prompt": make_rows(("", *PROMPTS[:2]), per_prompt=6),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_ratings_give_a_finite_report(kind, clip, tmp_path):
    report = fit_reward(STRANGE[kind], picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    found = read_report(tmp_path / "reward")
    assert found["held_out_by"] == ("images" if kind == "one prompt" else "prompt")
    assert report.ties == sum(row["outcome"] == "tie" for row in STRANGE[kind])
    assert scores_of(tmp_path / "reward", 40, 240).shape == (2,)


GRADED = {"round": 1, "rater_id": "ann", "image_a": None, "image_b": None, "outcome": None, "left": None, "levels": 5}
REFUSED: dict[str, tuple[list[dict], str]] = {
    "no answers": ([], "0 answers"),
    "ties alone": (one_sided(make_rows(per_prompt=3), "tie"), "none of them prefers an image"),
    "images against themselves": (
        [row | {"image_b": row["image_a"]} for row in make_rows(per_prompt=3)],
        "0 answers",
    ),
    "constant grades": (
        [GRADED | {"prompt": prompt, "images": [f"{n}" for n in range(8)], "values": [3] * 8} for prompt in PROMPTS],
        "none of the grades differ",
    ),
    "one prompt whose images hang together": (make_rows(PROMPTS[:1]), "hang together"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_ratings_that_teach_nothing_are_refused_in_words(kind, clip, tmp_path):
    rows, words = REFUSED[kind]
    with pytest.raises(NotEnoughRatings, match=words) as refusal:
        fit_reward(rows, picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("values", "levels", "words"),
    [([1, 2], None, "3 images and 2 values"), ([1, 0, 2], None, "the value 0"), ([1, 6, 2], 5, "the value 6")],
)
def test_ranks_and_grades_that_cannot_be_are_refused_in_words(values, levels, words, clip, tmp_path):
    row = GRADED | {"prompt": "a dog", "images": ["1", "2", "3"], "values": values, "levels": levels}
    with pytest.raises(StoreError, match=words):
        fit_reward([row], picture, config_for(clip), tmp_path / "cache", tmp_path / "reward")
