"""What the guard would have seen of a training, and done: it leaves no trace in what a training draws, so the guarded
training is this one until it is stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.papers.judging import kept
from benchmarks.papers.plan import ASKED
from benchmarks.papers.rewards import BATCH, GUIDANCE, RATERS_UTILITY, STEPS
from data.evaluation import distances_within
from data.guard import Look, Rule
from data.prompt_list import starter_prompts
from hitl.config import GOLD, GuardConfig
from reward_models.backbone import Backbone
from reward_models.config import RewardFitConfig
from reward_models.fit import load_backbone
from rl.families.family import Family
from rl.rollout import draw
from rl.train import Reward


@dataclass(slots=True)
class GuardLooks:
    """Looks as `hitl.stages.guard` takes them by default: 32 held-out prompts of DPOK's four tasks, 2 pictures of each,
    the same at every look and none of those that a policy is judged on; gold judges."""

    family: Family
    reward: Reward
    backbone: Backbone
    work: Path

    @classmethod
    def of(cls, family: Family, reward: Reward, work: Path) -> "GuardLooks":
        return cls(family, reward, load_backbone(RewardFitConfig(), str(family.device)), work)

    def start(self) -> dict[str, Any]:
        """The reference's, whose pictures are drawn once and kept under `work`."""

        def drawn() -> np.ndarray:
            with self.family.reference():
                return self._draw().numpy()

        path = self.work / "reference" / f"looks-{str(self.family.dtype).rpartition('.')[2]}.npz"
        return self._look(0, torch.from_numpy(kept(path, drawn)))

    def take(self, epoch: int) -> dict[str, Any]:
        return self._look(epoch, self._draw())

    def _draw(self) -> torch.Tensor:
        rows = _rows()
        return draw(
            self.family,
            [text for text, _ in rows],
            steps=STEPS,
            guidance=GUIDANCE,
            seeds=[("papers", "look", text, index) for text, index in rows],
            batch_size=BATCH,
        )

    def _look(self, epoch: int, images: torch.Tensor) -> dict[str, Any]:
        texts = [text for text, _ in _rows()]
        with torch.no_grad():
            features = self.backbone.image_features(images).cpu().double().numpy()
        apart = distances_within(features, texts)
        return Look(
            epoch=epoch,
            prompts=tuple(texts),
            reward=_rounded(self.reward(images, texts)),
            judges={GOLD: _rounded(RATERS_UTILITY(images, texts))},
            diversity={text: float(np.mean(apart[np.array(texts) == text])) for text in dict.fromkeys(texts)},
        ).to_dict()


def verdicts(looks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By a training's looks, the start's among them: after which epoch it is stopped (0: never), why, and whose epoch's
    policy is kept."""
    taken, rule = [Look.from_dict(row) for row in looks], _rule(len(looks) - 1)
    for number, look in enumerate(taken[1:], start=2):
        found = rule.decide(taken[0], look)
        if found.reason or number == len(taken):
            refused = [look.epoch] if found.reason in ("diversity", "kl") else []
            best = rule.keep(taken[:number], found, refused).epoch
            return {"stopped": look.epoch if found.reason else 0, "reason": found.reason, "kept": best}
    raise ValueError("there is one look, of the start; expected more")


def _rule(looks: int) -> Rule:
    return Rule(looks=looks, min_diversity=GuardConfig().min_diversity)


def _rows() -> list[tuple[str, int]]:
    guard = GuardConfig()
    texts = [prompt.text for prompt in starter_prompts(0, guard.prompts // len(ASKED)) if prompt.task in ASKED]
    return [(text, index) for text in texts for index in range(guard.images_per_prompt)]


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(each, 5) for each in values.tolist())
