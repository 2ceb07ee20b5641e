"""Trains the starter's open_clip model: contrastive, on rendered scenes, against captions wrong in one thing.

The scores of the verifier play no part. Captions of the held-out split are never shown, not even as wrong ones.
"""

import json
import logging
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from data.world.scenes import render
from reward_models.hard_captions import (
    MISTAKES,
    Caption,
    enrich,
    facts,
    mistaken,
    sample_of_split,
    wrong_captions,
)
from reward_models.starter import build_tokenizer, encode_text, model_config, normalise, save_folder, tokens_of

logger = logging.getLogger(__name__)

FOCUS = (0.05, 0.2, 0.05, 0.3, 0.4)
"""Shares of colour, shape, count, relation and swap among wrong captions, from `focus_from` on."""

RELATIONS_IN_FOCUS = 0.5
"""Share of scenes with a relation, from `focus_from` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPretrainConfig:
    """How the starter's open_clip model is trained."""

    steps: int = 2800
    """Optimiser steps. Each draws its scenes anew from (seed, step), so that a resumed run sees the same ones."""
    batch_size: int = 96
    """Scenes per step."""
    wrong_captions: int = 3
    """Captions per scene that are wrong in one thing. They stand beside the true captions of all other scenes."""
    learning_rate: float = 1.2e-3
    """Level after 100 steps of warm-up."""
    cooldown: int = 500
    """Last steps, over which the rate falls to 0."""
    focus_from: int = 600
    """Step from which half of the scenes have a relation, and wrong captions are mostly wrong in it or in the order of
    things: which colour and which place belong to which shape is learned last, all of a sudden, after hundreds of
    steps at chance."""
    weight_decay: float = 0.05
    seed: int = 0
    save_every: int = 50
    """Steps between two training states. A killed run goes on from the last."""
    evaluate_every: int = 250
    """Steps between two measurements on held-out captions."""
    evaluate_scenes: int = 300
    """Held-out scenes of such a measurement."""


@dataclass(frozen=True, slots=True)
class Batch:
    pictures: np.ndarray  # uint8 (scenes, h, w, 3)
    texts: list[str]  # all different
    is_true: np.ndarray  # bool (scenes, texts)
    own: np.ndarray  # int (scenes,): the column of each scene's own true caption


def draw_batch(config: ClipPretrainConfig, step: int) -> Batch:
    """Scenes, their captions, hard-wrong ones, and which of all these captions are true of which scene."""
    rng = np.random.default_rng((config.seed, step))
    has_focus = step >= config.focus_from
    truths, pictures, own = [], [], []
    captions: dict[str, tuple[int, Caption]] = {}
    for _ in range(config.batch_size):
        task = "location" if has_focus and rng.random() < RELATIONS_IN_FOCUS else None
        core, scene = sample_of_split("train", rng, task=task)
        truth = facts(scene)
        caption = enrich(core, truth, rng)
        wrong = wrong_captions(caption, truth, rng, count=config.wrong_captions, weights=FOCUS if has_focus else None)
        for each in (caption, *wrong):
            captions.setdefault(each.text, (len(captions), each))
        truths.append(truth)
        pictures.append(render(scene))
        own.append(captions[caption.text][0])
    by_core: dict[str, list[tuple[int, Caption]]] = defaultdict(list)
    for column, caption in captions.values():
        by_core[caption.core].append((column, caption))
    is_true = np.zeros((len(truths), len(captions)), dtype=bool)
    for row, truth in enumerate(truths):
        for core in truth.cores:
            for column, caption in by_core[core]:
                is_true[row, column] = truth.allow(caption)
    return Batch(np.stack(pictures), list(captions), is_true, np.array(own))


def contrastive_loss(image: Tensor, text: Tensor, is_true: Tensor, own: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """InfoNCE in both directions (arXiv:2103.00020, figure 3), and the share of scenes that rank a true caption first.

    Deviations: the image's candidates include all hard-wrong captions; another scene's caption that happens to be
    true of the picture as well is left out of the denominator instead of being pushed away.
    """
    logits = scale * image @ text.T
    rows = torch.arange(len(own))
    other_true = is_true.clone()
    other_true[rows, own] = False
    of_image = functional.cross_entropy(logits.masked_fill(other_true, -math.inf), own)
    of_text = logits[:, own].T  # (captions, scenes)
    also_true = is_true[:, own].T & ~torch.eye(len(own), dtype=torch.bool)
    of_text_loss = functional.cross_entropy(of_text.masked_fill(also_true, -math.inf), rows)
    first = is_true[rows, logits.argmax(1)].float().mean()
    return (of_image + of_text_loss) / 2, first


def augment(pictures: np.ndarray, generator: torch.Generator) -> Tensor:
    """Model input from pictures: some blurred, noisy or off in colour, as pictures out of a VAE are."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    count = len(x)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    coarse = functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    kind, amount = uniform(count), uniform(count, 1, 1, 1)
    softer = torch.where((kind < 0.5).reshape(-1, 1, 1, 1), blurred, coarse)
    x = torch.lerp(x, softer, amount * (uniform(count, 1, 1, 1) < 0.6))
    x = x * (1 + 0.1 * (uniform(count, 3, 1, 1) - 0.5)) + 0.08 * (uniform(count, 3, 1, 1) - 0.5)
    wash = functional.interpolate(uniform(count, 3, 8, 8) - 0.5, size=x.shape[-2:], mode="bilinear")
    x = x + 0.15 * uniform(count, 1, 1, 1) * wash
    x = x + 0.08 * uniform(count, 1, 1, 1) * torch.randn(x.shape, generator=generator)
    return normalise(x.clamp(0, 1))


def pretrain(
    folder: Path, config: ClipPretrainConfig, *, on_step: Callable[[int], None] = lambda step: None
) -> open_clip.CLIP:
    """Train, or go on from `folder/clip_state.pt`; ends with `folder/clip/`, which open_clip loads as `local-dir:`.

    `on_step` hears of each step done.
    """
    torch.manual_seed(config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    wrapped = build_tokenizer()
    model = open_clip.CLIP(**model_config(len(wrapped)))
    model.visual.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    state_path, done = folder / "clip_state.pt", 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    started, losses, firsts = time.monotonic(), [], []
    for step in range(done, config.steps):
        model.train()
        _set_rate(optimizer, config, step)
        loss, first = _train_step(model, wrapped, optimizer, config, step)
        losses.append(loss)
        firsts.append(first)
        if (step + 1) % 25 == 0 or step + 1 == config.steps:
            seconds = round(time.monotonic() - started, 1)
            scale = round(model.logit_scale.exp().item(), 2)
            write_log(folder, step=step + 1, loss=_mean(losses), first=_mean(firsts), scale=scale, seconds=seconds)
            losses, firsts = [], []
        if (step + 1) % config.evaluate_every == 0 or step + 1 == config.steps:
            write_log(folder, step=step + 1, held_out=held_out_accuracy(model, wrapped, scenes=config.evaluate_scenes))
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(saved, state_path.with_suffix(".tmp"))
            state_path.with_suffix(".tmp").replace(state_path)
        on_step(step + 1)
    save_folder(model, wrapped, folder / "clip")
    return model


def _train_step(
    model: open_clip.CLIP,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.Optimizer,
    config: ClipPretrainConfig,
    step: int,
) -> tuple[float, float]:
    batch = draw_batch(config, step)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    x = augment(batch.pictures, generator).to(memory_format=torch.channels_last)
    image = functional.normalize(model.visual(x), dim=-1)
    text = encode_text(model, tokens_of(tokenizer, batch.texts))
    scale = model.logit_scale.exp()
    loss, first = contrastive_loss(image, text, torch.from_numpy(batch.is_true), torch.from_numpy(batch.own), scale)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(100))
    return loss.item(), first.item()


def _set_rate(optimizer: torch.optim.Optimizer, config: ClipPretrainConfig, step: int) -> None:
    ramp = min(1.0, (step + 1) / 100, (config.steps - step) / config.cooldown)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * ramp


@torch.no_grad()
def held_out_accuracy(
    model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, *, scenes: int, seed: int = 1
) -> dict[str, float]:
    """How often the true caption of a held-out scene scores above a caption wrong in one thing, by the mistake.

    Every scene meets each mistake that its caption can have, so `all` is the mean over such pairs.
    """
    model.eval()
    rng = np.random.default_rng((seed, 10**6))
    pictures, texts, pairs = [], [], []
    for row in range(scenes):
        core, scene = sample_of_split("held_out", rng)
        truth = facts(scene)
        pictures.append(render(scene))
        texts.append(core)
        for mistake in MISTAKES:
            wrong = mistaken(core, mistake, rng)
            if wrong is not None and wrong not in truth.cores:
                pairs.append((row, core, wrong, mistake))
                texts.append(wrong)
    x = normalise(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255)
    image = torch.cat([functional.normalize(model.visual(part), dim=-1) for part in x.split(100)])
    distinct = sorted(set(texts))
    tokens = tokens_of(tokenizer, distinct)
    text = torch.cat([encode_text(model, part) for part in tokens.split(256)])
    column = {each: index for index, each in enumerate(distinct)}
    score = image @ text.T
    right: dict[str, list[bool]] = defaultdict(list)
    for row, core, wrong, mistake in pairs:
        right[mistake].append(bool(score[row, column[core]] > score[row, column[wrong]]))
    everything = [hit for hits in right.values() for hit in hits]
    return {"all": _mean(everything), "pairs": len(everything)} | {name: _mean(right[name]) for name in MISTAKES}


def ship(folder: Path, destination: Path, config: ClipPretrainConfig, *, scenes: int = 2000) -> dict[str, float]:
    """Copy the trained folder, measure the copy as open_clip loads it, and write the model card beside it."""
    shutil.copytree(folder / "clip", destination, dirs_exist_ok=True)
    model = open_clip.create_model(f"local-dir:{destination}")
    accuracy = held_out_accuracy(model, build_tokenizer(), scenes=scenes)
    size = (destination / "open_clip_model.safetensors").stat().st_size / 1e6
    rows = "\n".join(f"| {name} | {accuracy[name]:.3f} |" for name in ("all", *MISTAKES))
    (destination / "README.md").write_text(
        _CARD.format(
            size=size,
            million=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
            rows=rows,
            pairs=int(accuracy["pairs"]),
            settings=json.dumps(asdict(config)),
            **asdict(config),
        )
    )
    return accuracy


_CARD = """# Starter CLIP

A small `open_clip` model ({million:.1f} M parameters, {size:.1f} MB in float16) for 64 x 64 pictures of the starter
world. It is the default backbone of the reward model. It was trained on scenes that the project draws itself, on no
photographs and on no scores of the verifier. License: Apache-2.0.

Load it with open_clip alone:

```python
import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:reward_models/starter_clip")
tokenizer = open_clip.get_tokenizer("local-dir:reward_models/starter_clip")
```

Zero-shot choice between the true caption and one wrong in one thing, on {pairs} pairs of held-out captions:

| wrong in | accuracy |
|---|---|
{rows}

`swap` exchanges the colours of two shapes, or the two shapes of a relation; 0.5 is chance.

Made by `python -m reward_models.pretrain FOLDER --steps {steps} --seed {seed} --ship reward_models/starter_clip`
(settings: `{settings}`).

It knows the world's words only; other words are read letter by letter and mean nothing to it.
"""


def write_log(folder: Path, **row: object) -> None:
    logger.info("%s", row)
    with (folder / "clip.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _mean(values: list[Any]) -> float:
    return round(float(np.mean(values)), 4) if values else float("nan")


def main() -> None:
    """Command line of this module: train, and with `--ship` copy and measure what came out."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=ClipPretrainConfig().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more only where cores are idle: waiting costs more")
    parser.add_argument("--ship", type=Path, help="copy the finished model here, with a model card")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    config = ClipPretrainConfig(steps=arguments.steps, seed=arguments.seed)
    pretrain(arguments.folder, config)
    if arguments.ship:
        print(json.dumps(ship(arguments.folder, arguments.ship, config)))


if __name__ == "__main__":
    main()
