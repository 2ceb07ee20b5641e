"""The reward that is optimised: a reward model fitted on simulated ratings of the reference's images."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from apps.simulated import Judgement, crew
from benchmarks.papers.plan import Ratings, key_of
from data.prompt_list import starter_prompts
from data.world.taste import taste
from data.world.verifier import judge
from reward_models.config import RewardFitConfig
from reward_models.fit import fit_reward
from reward_models.rewards.clip_head import ClipHead
from rl.families.family import Family
from rl.rollout import draw

STEPS, GUIDANCE, BATCH = 10, 3.0, 64
"""As a round draws what it asks about and judges."""


def fitted(ratings: Ratings, family: Family, work: Path) -> ClipHead:
    """The reward model of these ratings. It is one for all seeds of a training, as ImageReward is one for all."""
    folder = work / "rewards" / key_of([asdict(ratings), str(family.dtype)])
    if not (folder / "fit.json").exists():
        pictures, texts = _drawn(ratings, family)
        judgements = [_look(picture, text) for picture, text in zip(pictures, texts, strict=True)]
        fit_reward(
            answers(ratings, texts, judgements),
            lambda image_id: pictures[int(image_id)],
            RewardFitConfig(weigh_raters=ratings.weigh_raters),
            folder / "features",
            folder,
            reference_images=[(_id(i), text) for i, text in enumerate(texts)],
            device=str(family.device),
        )
    return ClipHead.load(folder, device=family.device)


def answers(ratings: Ratings, texts: Sequence[str], judgements: Sequence[Judgement]) -> list[dict[str, object]]:
    """Rows of a snapshot: pairs of images of one prompt, asked of the raters in turn."""
    raters = crew(ratings.raters, seed=ratings.seed, taste_weight=1.0, adversarial=ratings.adversaries)
    rng = np.random.default_rng([ratings.seed, 1])
    members = ratings.images_per_prompt
    rows: list[dict[str, object]] = []
    while len(rows) < ratings.count:
        number = len(rows)
        group = int(rng.integers(len(texts) // members)) * members
        a, b = (group + int(each) for each in rng.choice(members, 2, replace=False))
        rater = raters[number % len(raters)]
        choice = rater.choose(f"task-{number}", (_id(a), _id(b)), (judgements[a], judgements[b]))
        outcome = {"left": "a", "right": "b"}.get(choice, "tie")
        if outcome != "tie" and rng.random() < ratings.flipped:
            outcome = "b" if outcome == "a" else "a"
        rows.append(
            {
                "prompt": texts[a],
                "image_a": _id(a),
                "image_b": _id(b),
                "outcome": outcome,
                "left": "a",
                "both_bad": choice == "both_bad",
                "rater_id": rater.name,
                "round": 1,
            }
        )
    return rows


def _drawn(ratings: Ratings, family: Family) -> tuple[np.ndarray, list[str]]:
    """The reference's images (n, 64, 64, 3) of trained-on prompts, those of one prompt beside each other."""
    members = ratings.images_per_prompt
    prompts = starter_prompts(ratings.prompts_per_task, 0)
    texts = [prompt.text for prompt in prompts for _ in range(members)]
    family.drop_policy()
    images = draw(
        family,
        texts,
        steps=STEPS,
        guidance=GUIDANCE,
        seeds=[("papers", "rated", ratings.seed, i) for i in range(len(texts))],
        batch_size=BATCH,
    )
    return images.permute(0, 2, 3, 1).numpy(), texts


def _look(picture: np.ndarray, text: str) -> Judgement:
    verdict = judge(picture, text)
    assert verdict is not None  # all prompts are of the starter's world
    return Judgement(correctness=verdict.score, taste=taste(picture))


def _id(number: int) -> str:
    return f"{number:06d}"
