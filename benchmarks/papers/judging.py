"""What a policy's images are worth: the same prompts and seeds for every policy, so that gains are paired."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.papers.plan import ASKED, Judged, key_of
from benchmarks.papers.rewards import BATCH, GUIDANCE, STEPS
from data.prompt_list import starter_prompts
from data.records import Prompt
from data.world.taste import taste
from data.world.verifier import judge
from reward_models.rewards.clip_score import ClipScore
from rl.config import SampleConfig
from rl.divergence import kl_to_reference
from rl.families.family import Family
from rl.rollout import draw
from rl.train import Reward

Scores = dict[str, np.ndarray]
"""Of each judged image: `reward` (what the run optimises), `exact` and `correctness` (the verifier's, gold), `taste`
(gold) and `clip` (zero-shot CLIP); float (images,)."""


def judged_rows(judged: Judged) -> list[tuple[Prompt, int]]:
    """(prompt, index of the image) of every judged image, in their order."""
    per_task = judged.prompts_per_task
    return [
        (prompt, index)
        for prompt in starter_prompts(per_task, per_task)
        for index in range(judged.bias_images_per_prompt if prompt.task == "bias" else judged.images_per_prompt)
    ]


def pictures_of(family: Family, judged: Judged) -> torch.Tensor:
    """The present policy's judged images, uint8 (images, 3, height, width)."""
    rows = judged_rows(judged)
    return draw(
        family,
        [prompt.text for prompt, _ in rows],
        steps=STEPS,
        guidance=GUIDANCE,
        seeds=[("papers", "judged", prompt.text, index) for prompt, index in rows],
        batch_size=BATCH,
    )


def scores_of(images: torch.Tensor, judged: Judged, rewards: Mapping[str, Reward]) -> Scores:
    """Gold of the judged images, and what those rewards say of them."""
    texts = [prompt.text for prompt, _ in judged_rows(judged)]
    pictures = images.permute(0, 2, 3, 1).numpy()
    verdicts = [judge(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    return {name: reward(images, texts).double().numpy() for name, reward in rewards.items()} | {
        "exact": np.array([float(verdict is not None and verdict.exact) for verdict in verdicts]),
        "correctness": np.array([verdict.score if verdict is not None else 0.0 for verdict in verdicts]),
        "taste": np.array([taste(picture) for picture in pictures]),
    }


def rewards_judged_by(reward: Reward, family: Family) -> dict[str, Reward]:
    return {"reward": reward, "clip": ClipScore.load(device=family.device)}


def reference_images(family: Family, judged: Judged, work: Path) -> torch.Tensor:
    """The reference's judged images, drawn once and kept under `work`."""
    path = work / "reference" / f"{key_of([asdict(judged), str(family.dtype)])}.npz"

    def drawn() -> np.ndarray:
        with family.reference():
            return pictures_of(family, judged).numpy()

    return torch.from_numpy(kept(path, drawn))


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in that file, made when it is not there. A kill leaves no half of it."""
    if not path.exists():
        save_images(path, make())
    with np.load(path) as found:
        return found["images"]


def save_images(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp.npz")
    np.savez_compressed(beside, images=images)
    beside.replace(path)


def nats(family: Family, judged: Judged, sample: SampleConfig) -> float:
    """KL of the policy to the reference, by one trajectory of each held-out prompt of DPOK's four tasks."""
    prompts = starter_prompts(0, judged.prompts_per_task)
    texts = [prompt.text for prompt in prompts if prompt.task in ASKED]
    seeds = [("papers", "nats", text) for text in texts]
    return float(kl_to_reference(family, texts, sample, seeds=seeds).mean())
