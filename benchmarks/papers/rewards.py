"""The rewards that are optimised: the reward model fitted on simulated ratings, and those that are functions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.simulated import Judgement, crew
from benchmarks.papers.plan import Ratings, key_of
from benchmarks.scores import correctness
from data.prompt_list import starter_prompts
from data.world.taste import taste
from data.world.verifier import judge
from hitl.stages.guard import Gold
from reward_models.config import RewardFitConfig
from reward_models.fit import fit_reward
from reward_models.rewards.clip_head import ClipHead
from reward_models.rewards.jpeg_size import JpegSize
from rl.families.family import Family
from rl.rollout import draw
from rl.train import Reward

STEPS, GUIDANCE, BATCH = 10, 3.0, 64
"""As a round draws what it asks about and judges."""


RATERS_UTILITY = Gold(taste_weight=1.0)
"""What the simulated raters like: gold, which only judges."""


def reward_of(name: str, ratings: Ratings, family: Family, work: Path) -> Reward:
    """The reward of that name; a reward model is fitted when it is first asked for and then kept under `work`."""
    if name == "utility":
        return RATERS_UTILITY
    return fitted(ratings, family, work) if name == "learned" else FUNCTIONS[name]


@dataclass(frozen=True, slots=True)
class Colourfulness:
    """M3 of Hasler and Süsstrunk (2003, Measuring colourfulness in natural images), of colours from 0 to 255.

    It stands for an aesthetic score: smooth, learnable, with a gradient, and beside the point when there is too much.
    """

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Of uint8 images (batch, 3, height, width); the prompts are not looked at."""
        return self.differentiable(images.float() / 255, prompts)

    def differentiable(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Of float images whose colours go from 0 to 1."""
        red, green, blue = (255 * images).flatten(2).unbind(1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue])
        spread = opponents.var(dim=2, correction=0).sum(dim=0)
        centre = opponents.mean(dim=2).square().sum(dim=0)
        return (spread + 1e-6).sqrt() + 0.3 * (centre + 1e-6).sqrt()  # a grey picture has a gradient, too


FUNCTIONS: dict[str, Reward] = {
    "compressibility": JpegSize(sign=-1),
    "incompressibility": JpegSize(),
    "colourfulness": Colourfulness(),
    "alignment": correctness,
}
"""DDPO's four (arXiv:2305.13301, section 5): its aesthetic score has a stand-in, and so has the model that answers
questions about pictures, for which the verifier reads them."""


def fitted(ratings: Ratings, family: Family, work: Path) -> ClipHead:
    """The reward model of these ratings. It is one for all seeds of a training, as ImageReward is one for all."""
    folder = work / "rewards" / key_of([asdict(ratings), str(family.dtype)])
    if not (folder / "fit.json").exists():
        pictures, texts = _drawn(ratings, family)
        judgements = looked_at(pictures, texts)
        members = ratings.images_per_prompt
        pairs = random_pairs(ratings.count, len(texts) // members, members, ratings.seed)
        fit_reward(
            answers(ratings, texts, judgements, pairs, 1),
            lambda name: pictures[int(name.split("-")[1])],
            RewardFitConfig(weigh_raters=ratings.weigh_raters),
            folder / "features",
            folder,
            reference_images=[(image_id(i, 1), text) for i, text in enumerate(texts)],
            device=str(family.device),
        )
    return ClipHead.load(folder, device=family.device)


def answers(
    ratings: Ratings,
    texts: Sequence[str],
    judgements: Sequence[Judgement],
    pairs: Sequence[tuple[int, int]],
    round: int,
) -> list[dict[str, object]]:
    """Rows of a snapshot: these pairs of a round's images, asked of the raters in turn."""
    raters = crew(ratings.raters, seed=ratings.seed, taste_weight=1.0, adversarial=ratings.adversaries)
    chance = np.random.default_rng([ratings.seed, round, 2])
    rows: list[dict[str, object]] = []
    for number, (a, b) in enumerate(pairs):
        rater = raters[number % len(raters)]
        ids = image_id(a, round), image_id(b, round)
        choice = rater.choose(f"task-{round}-{number}", ids, (judgements[a], judgements[b]))
        outcome = {"left": "a", "right": "b"}.get(choice, "tie")
        if outcome != "tie" and chance.random() < ratings.flipped:
            outcome = "b" if outcome == "a" else "a"
        rows.append(
            {
                "prompt": texts[a],
                "image_a": ids[0],
                "image_b": ids[1],
                "outcome": outcome,
                "left": "a",
                "both_bad": choice == "both_bad",
                "rater_id": rater.name,
                "round": round,
            }
        )
    return rows


def random_pairs(count: int, prompts: int, members: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of images of one prompt, those of a prompt standing beside each other; a pair may come again."""
    rng = np.random.default_rng([seed, 1])
    groups = rng.integers(prompts, size=count) * members
    within = [rng.choice(members, 2, replace=False) for _ in range(count)]
    return [(int(group + a), int(group + b)) for group, (a, b) in zip(groups, within, strict=True)]


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


def looked_at(pictures: np.ndarray, texts: Sequence[str]) -> list[Judgement]:
    """What simulated raters see in pictures (n, 64, 64, 3)."""
    verdicts = [judge(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    return [
        Judgement(correctness=verdict.score if verdict is not None else None, taste=taste(picture))
        for picture, verdict in zip(pictures, verdicts, strict=True)
    ]


def image_id(number: int, round: int) -> str:
    return f"{round}-{number:06d}"
