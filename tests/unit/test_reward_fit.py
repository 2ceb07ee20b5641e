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
from scipy.stats import ttest_1samp

from data.bootstrap import Interval, cluster_interval
from hitl.core.errors import ConfigError, ModelLoadError, NotEnoughRatings, RewardAtChance, StoreError, WorkspaceError
from reward_models.answers import answers_from_rows, compared, groups, read_snapshot, require_preferences, things_of
from reward_models.config import RewardFitConfig
from reward_models.fit import fit_reward
from reward_models.intervals import interval
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
    assert saved["candidates"][0]["by_l2"].keys() == {"100", "10"}

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
