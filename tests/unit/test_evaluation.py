"""What a round achieved, from scores of single pictures: against arithmetic by hand and scipy."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import pdist

from data.evaluation import (
    ImageScore,
    best_of,
    distances_within,
    measures_of,
    read_scores,
    summarise,
    write_scores,
)
from data.judged_images import JudgedImages


def score(subject: str, prompt: str, index: int, split: str = "held_out", **values: float) -> ImageScore:
    return ImageScore(
        subject=subject, prompt_id=prompt, prompt=prompt, task="count", split=split, index=index, values=values
    )


def test_diversity_is_the_mean_distance_over_a_prompts_pairs():
    features = np.random.default_rng(0).normal(size=(7, 5))
    found = distances_within(features, ["a", "b", "a", "b", "a", "c", "b"])
    for prompt in ([0, 2, 4], [1, 3, 6]):
        assert found[prompt].mean() == pytest.approx(pdist(features[prompt], "cosine").mean())
    assert np.isnan(found[5])
    assert distances_within(np.ones((3, 4)), ["a"] * 3) == pytest.approx(0)


def test_the_best_of_n_is_of_the_first_n_and_has_nothing_that_is_said_of_a_model():
    scores = [score("reference", "p", i, reward=r, taste=-r, diversity=0.1, kl=0.0) for i, r in enumerate([1, 3, 9])]
    (best,) = best_of(scores, 2)
    assert (best.subject, best.index, best.values) == ("best_of_2", 0, {"reward": 3, "taste": -3})


def test_gains_are_paired_by_prompt_and_seed_where_both_were_judged():
    """Policy minus reference: 2 and 4 on p, 1 on q, whose second picture has no partner: mean 7/3, of two prompts."""
    scores = [
        score("reference", "p", 0, reward=1),
        score("reference", "p", 1, reward=1, kl=0),
        score("reference", "q", 0, reward=5),
        score("previous", "p", 0, reward=4),
        score("policy", "p", 0, reward=3),
        score("policy", "p", 1, reward=5, kl=7),
        score("policy", "q", 0, reward=6),
        score("policy", "q", 1, reward=100),
        score("policy", "t", 0, split="train", reward=0),
    ]
    found = summarise(scores)
    gain = found["gains"]["held_out"]["all"]
    assert (gain["reward"]["mean"], gain["reward"]["n"], gain["reward"]["clusters"]) == (pytest.approx(7 / 3), 3, 2)
    assert gain["kl"]["mean"] == 7
    assert found["gains"]["held_out"]["tasks"]["count"]["reward"] == gain["reward"]
    assert found["since_previous"]["held_out"]["all"]["reward"]["mean"] == -1
    assert found["gains"]["train"]["all"] == {}
    assert found["subjects"]["policy"]["held_out"]["all"]["reward"]["mean"] == pytest.approx(114 / 4)
    assert found["reference_taste_sd"] is None


def test_scores_come_back_from_their_file_and_from_one_of_an_earlier_version(tmp_path: Path):
    """The first row lacks what a later one has."""
    scores = [score("policy", "p", 0, reward=1.0), score("policy", "p", 1, reward=2.0, clip_score=0.25)]
    write_scores(tmp_path / "scores.parquet", scores)
    assert read_scores(tmp_path / "scores.parquet") == scores
    assert measures_of(scores) == ["reward", "clip_score"]
    older = {"subject": "policy", "prompt_id": "p", "prompt": "p", "task": "count", "split": "held_out", "index": 0}
    older |= {"reward": 1.0, "correctness": None, "exact": None, "taste": 0.5}
    pq.write_table(pa.Table.from_pylist([older]), tmp_path / "older.parquet")
    assert read_scores(tmp_path / "older.parquet") == [score("policy", "p", 0, reward=1.0, taste=0.5)]


def test_pictures_and_their_values_come_back_and_a_torn_file_is_no_file(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    kept = JudgedImages(
        images=pixels, prompt_ids=("p", "q"), indices=(0, 1), checkpoint="c", judges="j", values={"kl": np.ones(2)}
    )
    kept.save(tmp_path / "it.npz")
    found = JudgedImages.read(tmp_path / "it.npz")
    assert found is not None
    assert np.array_equal(found.images, pixels)
    assert (found.prompt_ids, found.indices, found.checkpoint, found.judges) == (("p", "q"), (0, 1), "c", "j")
    assert found.values["kl"].tolist() == [1.0, 1.0]
    whole = (tmp_path / "it.npz").read_bytes()
    (tmp_path / "it.npz").write_bytes(whole[: len(whole) // 2])
    assert JudgedImages.read(tmp_path / "it.npz") is None
    assert JudgedImages.read(tmp_path / "none.npz") is None
    chance, damaged = np.random.default_rng(0), []
    for place in chance.integers(0, len(whole), 500):  # in the archive's own records, in numpy's headers, in the pixels
        torn = bytearray(whole)
        torn[place] ^= 1 << int(chance.integers(8))
        (tmp_path / "it.npz").write_bytes(torn)
        damaged.append(JudgedImages.read(tmp_path / "it.npz"))
    assert None in damaged
    assert all(np.array_equal(each.images, pixels) for each in damaged if each is not None)
