"""Looks at the policy while it is trained, and ends a training that does harm: `data.guard` is the rule."""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from data.checkpoints import sha256_of_weights
from data.evaluation import distances_within
from data.guard import Look, Rule, Verdict
from data.judged_images import JudgedImages
from data.workspace import write_atomically
from data.world.taste import taste
from data.world.verifier import judge
from hitl.config import GOLD, RunConfig
from hitl.core.errors import WorkspaceError
from hitl.stages.judges import load_judge
from hitl.stages.stage import Desk, Stage
from reward_models.backbone import Backbone
from reward_models.fit import load_backbone
from rl.divergence import kl_to_reference
from rl.families.family import Family
from rl.rollout import draw
from rl.train import Reward

STAGE = "guard"
"""Under this name a look's metrics are reported, beside those of the epoch."""
_FILE = "looks.json"


@dataclass(slots=True)
class Guard:
    """One round's, as `rl.train.Watch`. What it saw and decided is in `train/guard/looks.json`, so that a run that was
    killed goes on with it; beside it stand the state of the best policy so far, and in the end the pictures of the one
    that is kept, from which the next round starts."""

    stage: Stage
    family: Family
    reward: Reward
    judges: dict[str, Reward]
    backbone: Backbone
    """Whose features say how different two pictures are."""
    prompts: list[dict[str, str]]
    rule: Rule
    looks: list[Look] = field(default_factory=list)
    reference: dict[str, float] | None = None
    """The reference's diversity by prompt, of a round that does not start from it."""
    verdict: Verdict = field(default_factory=Verdict)
    refused: list[int] = field(default_factory=list)
    """Epochs whose policies are beyond a limit, and are not kept however well they are judged."""
    keeps: int | None = None
    """The epoch whose policy the round ends with; None while it is trained."""

    def __post_init__(self) -> None:
        path = self.folder / _FILE
        if not path.exists():
            return
        kept = json.loads(path.read_text())
        if kept["pictures"] != self._pictures():
            return
        self.looks = [Look.from_dict(row) for row in kept["looks"]]
        self.reference, self.refused, self.keeps = kept["reference"], kept["refused"], kept["keeps"]
        self.verdict = Verdict(**kept["verdict"])

    @property
    def epoch(self) -> int:
        """Of the last look."""
        return self.looks[-1].epoch if self.looks else 0

    @property
    def folder(self) -> Path:
        return self.stage.folder / "guard"

    # -- what the training asks ----------------------------------------------------------------------------------

    def look(self, epoch: int) -> bool:
        config = self.stage.config
        if self.keeps is not None or self.verdict.reason:
            if epoch in (self.keeps, self.epoch):
                return True
            self.verdict, self.keeps = Verdict(), None  # somebody began this round's training anew
        if any(look.epoch > epoch for look in self.looks):
            self.looks = [look for look in self.looks if look.epoch <= epoch]
            self.refused = [each for each in self.refused if each <= epoch]
        is_due = epoch % config.guard.every == 0 or epoch == config.train.epochs
        if not is_due or (epoch and not self.looks):  # begun without a guard, there is nothing to compare with
            return False
        if not any(look.epoch == epoch for look in self.looks):
            self._take(epoch)
        self._hold_best()
        self._write()
        return bool(self.verdict.reason)

    def kept(self) -> Path | None:
        if not self.epoch:
            return None
        if self.keeps is None:
            self.keeps = self.rule.keep(self.looks, self.verdict, self.refused).epoch
            self._write()
        path = self._state(self.keeps)
        # Not there where a run that was killed after this has put it in place already.
        return path if self.keeps != self.epoch and path.exists() else None

    def tidy(self, checkpoint: str) -> None:
        """Let go of the kept state, which is in its place, and of all pictures but those of the kept policy, whose
        weights hash to `checkpoint`."""
        kept = self.epoch if self.keeps is None else self.keeps
        found = JudgedImages.read(self._seen(kept)) if self.looks else None
        if found is not None:
            _save(replace(found, checkpoint=checkpoint), self._kept_pictures(self.stage.round))
        unused = [*self.folder.glob("state-*.pt"), *self.folder.glob("seen-*.npz")]
        if before := self.stage.inputs["policy_round"]:
            unused.append(self._kept_pictures(before))
        for path in unused:
            path.unlink(missing_ok=True)

    # -- a look --------------------------------------------------------------------------------------------------

    def _take(self, epoch: int) -> None:
        images = self._drawn_before() if epoch == 0 else None
        if images is None:
            images = self._draw()
        ids = tuple(prompt["prompt_id"] for prompt, _ in self._wanted())
        indices = tuple(index for _, index in self._wanted())
        _save(
            JudgedImages(images=images.numpy(), prompt_ids=ids, indices=indices, checkpoint=""),
            self._seen(epoch),
        )
        texts = [prompt["text"] for prompt, _ in self._wanted()]
        look = Look(
            epoch=epoch,
            prompts=ids,
            reward=tuple(self.reward(images, texts).tolist()),
            judges={name: tuple(ask(images, texts).tolist()) for name, ask in self.judges.items()},
            diversity=self._diversity(images),
            kl=self._kl(),
        )
        self.looks.append(look)
        if epoch == 0 and self.stage.inputs["policy_round"] and look.diversity and self.rule.min_diversity:
            self.reference = self._diversity_of_reference()
        if epoch:
            found = self.rule.decide(self.looks[0], look, self.reference)
            if found.reason in ("diversity", "kl"):
                self.refused.append(epoch)
            self.verdict = found
        self.stage.report(epoch, self.stage.config.train.epochs, STAGE, **self._metrics(look))

    def _wanted(self) -> list[tuple[dict[str, str], int]]:
        return [(prompt, i) for prompt in self.prompts for i in range(self.stage.config.guard.images_per_prompt)]

    def _draw(self) -> UInt8[Tensor, "batch 3 height width"]:
        config = self.stage.config
        wanted = self._wanted()
        images = draw(
            self.family,
            [prompt["text"] for prompt, _ in wanted],
            steps=config.evaluate.steps,
            guidance=config.sample.guidance,
            # Not those of evaluation, whose pictures would else be the ones that the policy was chosen by.
            seeds=[(config.project.seed, STAGE, prompt["prompt_id"], index) for prompt, index in wanted],
            batch_size=config.draw.batch_size,
        )
        return images.contiguous()  # as they come from their file: another layout rounds otherwise

    def _drawn_before(self) -> UInt8[Tensor, "batch 3 height width"] | None:
        """Those of the policy that this round starts from, where the round that made it looked at the same."""
        number = self.stage.inputs["policy_round"]
        found = JudgedImages.read(self._kept_pictures(number)) if number else None
        if found is None or found.checkpoint != sha256_of_weights(self.stage.checkpoint(number)):
            return None
        return torch.from_numpy(found.images)

    @torch.no_grad()
    def _diversity(self, images: UInt8[Tensor, "batch 3 height width"]) -> dict[str, float]:
        """By prompt, the mean over pairs of its pictures of 1 - cosine of their features."""
        if self.stage.config.guard.images_per_prompt < 2:
            return {}
        ids = [prompt["prompt_id"] for prompt, _ in self._wanted()]
        found = distances_within(self.backbone.image_features(images).cpu().double().numpy(), ids)
        # All pictures of a prompt together: each one's own mean counts every pair twice.
        count = self.stage.config.guard.images_per_prompt
        return dict(zip(ids[::count], found.reshape(-1, count).mean(1).tolist(), strict=True))

    def _diversity_of_reference(self) -> dict[str, float]:
        """The first round started from it: where its first look was at the same pictures, it is known."""
        path = self.stage.workspace.stage_dir(1, self.stage.name) / STAGE / _FILE
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["pictures"] == self._pictures() and kept["looks"]:
                return kept["looks"][0]["diversity"]
        with self.family.reference():
            return self._diversity(self._draw())

    def _kl(self) -> tuple[float, ...]:
        config = self.stage.config
        if not config.guard.kl_budget:
            return ()
        found = kl_to_reference(
            self.family,
            [prompt["text"] for prompt in self.prompts],
            config.sample,
            seeds=[(config.project.seed, STAGE, prompt["prompt_id"], "kl") for prompt in self.prompts],
        )
        return tuple(found.tolist())

    # -- what is kept of it --------------------------------------------------------------------------------------

    def _state(self, epoch: int) -> Path:
        return self.folder / f"state-{epoch:04d}.pt"

    def _seen(self, epoch: int) -> Path:
        """The pictures of a look whose policy may be kept."""
        return self.folder / f"seen-{epoch:04d}-{self._depends_on()}.npz"

    def _kept_pictures(self, number: int) -> Path:
        """Those of the policy that a round kept."""
        return self.stage.workspace.stage_dir(number, self.stage.name) / STAGE / f"kept-{self._depends_on()}.npz"

    def _depends_on(self) -> str:
        """A name for all that makes a look's pictures beside the policy."""
        config = self.stage.config
        depends_on = [
            config.project.seed,
            asdict(config.model),
            config.evaluate.steps,
            config.sample.guidance,
            config.draw.batch_size,
            config.guard.images_per_prompt,
            self.prompts,
        ]
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]

    def _hold_best(self) -> None:
        """Keep the training's state where this look is the best so far, in place of that of the one before."""
        best, path = self.rule.best(self.looks, self.refused), self.stage.folder / "policy" / "state.pt"
        if best is self.looks[-1]:
            self.folder.mkdir(parents=True, exist_ok=True)
            copy = self._state(best.epoch)
            copy.unlink(missing_ok=True)
            try:
                os.link(path, copy)  # the next epoch's state takes the name and leaves this file as it is
            except OSError:
                shutil.copyfile(path, copy)

    def _write(self) -> None:
        """The record, and then let go of the states and pictures that may not be kept."""
        content = {
            "pictures": self._pictures(),
            "looks": [look.to_dict() for look in self.looks],
            "reference": self.reference,
            "verdict": {"reason": self.verdict.reason, "words": self.verdict.words},
            "refused": self.refused,
            "keeps": self.keeps,
        }
        write_atomically(self.folder / _FILE, json.dumps(content).encode())
        best = self.rule.best(self.looks, self.refused).epoch
        needed = {self._state(best), self._seen(best), self._seen(self.epoch)}
        for path in [*self.folder.glob("state-*.pt"), *self.folder.glob("seen-*.npz")]:
            if path not in needed:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _pictures(self) -> dict[str, Any]:
        """What the pictures and their scores hang on: looks of others cannot be compared with these."""
        fit = self.stage.config.fit
        return {
            "drawn": self._depends_on(),
            "backbone": [fit.backbone, fit.pretrained],
            "judges": list(self.judges),
        }

    def _metrics(self, look: Look) -> dict[str, float]:
        """For the plot: what moved since the start, with its interval, and how far it went."""
        start, found = self.looks[0], {}
        moved = {"reward": self.rule.reward(start, look), "judgement": self.rule.change(start, look)}
        moved |= {name: self.rule.change(start, look, name) for name in look.judges if len(look.judges) > 1}
        moved["diversity"] = self.rule.diversity(self.reference or start.diversity, look)
        for name, interval in moved.items():
            if interval is not None and math.isfinite(interval.low):
                found |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return found | ({"kl": sum(look.kl) / len(look.kl)} if look.kl else {})

    def result(self) -> dict[str, Any]:
        """For the manifest: what was seen at each look, why the training was stopped and which policy was kept."""
        kept = self.epoch if self.keeps is None else self.keeps
        return {
            "reason": self.verdict.reason,
            "words": self._told(kept),
            "epoch": self.epoch,
            "kept": kept,
            "judges": list(self.judges),
            "prompts": len(self.prompts),
            "images_per_prompt": self.stage.config.guard.images_per_prompt,
            "looks": [{"epoch": look.epoch, **self._metrics(look)} for look in self.looks],
        }

    def _told(self, kept: int) -> str:
        """Empty where all went as planned."""
        planned = self.stage.config.train.epochs
        whose = f"that of epoch {kept}" if kept else "the one it started from"
        if self.verdict.reason:
            return f"Training was stopped after epoch {self.epoch} of {planned}: {self.verdict.words}. Kept is {whose}."
        if kept != self.epoch:
            return f"Of the policies that were looked at, {whose} is kept: judged better than the last, beyond noise."
        return ""


def _save(found: JudgedImages, path: Path) -> None:
    """A full disk ends no training over pictures that can be drawn again."""
    with contextlib.suppress(WorkspaceError):
        found.save(path)


def make_guard(stage: Stage, desk: Desk, family: Family, reward: Reward) -> Guard | None:
    """The guard that the settings ask for; None where it is off or no prompt is held out."""
    config, held_out = stage.config, stage.inputs.get("held_out", [])
    if not config.guard.on or not held_out:
        return None
    prompts = evenly(held_out, config.guard.prompts)
    backbone = load_backbone(config.fit, desk.device(config))
    looks = -(-config.train.epochs // config.guard.every)
    rule = Rule(looks=looks, min_diversity=config.guard.min_diversity, kl_budget=config.guard.kl_budget)
    judges = _judges(config, desk, family, prompts, backbone)
    return Guard(stage, family, reward, judges, backbone, prompts, rule)


def _judges(
    config: RunConfig, desk: Desk, family: Family, prompts: Sequence[Mapping[str, str]], backbone: Backbone
) -> dict[str, Reward]:
    names = list(config.guard.judges)
    if not names:
        any_picture = family.decode(torch.zeros((1, *family.latent_shape), device=family.device))
        seen = any_picture[0].permute(1, 2, 0).numpy()
        is_known = all(judge(seen, prompt["text"]) is not None for prompt in prompts)
        names = [GOLD] if is_known else [] if config.reward.get("clip_score") else ["clip_score"]
    found: dict[str, Reward] = {}
    for name in names:
        if name == GOLD:
            found[name] = Gold(config.simulated.taste_weight)
        else:
            found[name] = load_judge(name, config, backbone, desk.device(config))
    return found


@dataclass(frozen=True, slots=True)
class Gold:
    """What simulated raters like about pictures of the starter's world, without their noise."""

    taste_weight: float

    def __call__(self, images: UInt8[Tensor, "batch 3 height width"], prompts: Sequence[str]) -> Tensor:
        scores = []
        for image, prompt in zip(images.permute(0, 2, 3, 1).numpy(), prompts, strict=True):
            verdict = judge(image, prompt)
            scores.append((verdict.score if verdict else 0.0) + self.taste_weight * taste(image))
        return torch.tensor(scores)


def evenly(prompts: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """So many of the prompts, of all tasks in turn."""
    by_task: dict[str, list[dict[str, str]]] = {}
    for prompt in prompts:
        by_task.setdefault(prompt["task"], []).append(prompt)
    turns = zip_longest(*by_task.values())
    return [prompt for turn in turns for prompt in turn if prompt is not None][:count]
