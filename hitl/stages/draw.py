"""Draw: the images that people will rate, from the policy of the round before."""

import io
from importlib.metadata import version

from PIL import Image

from data.workspace import write_atomically
from hitl.core.errors import ConfigError
from hitl.stages.reward import require_rewards
from hitl.stages.stage import Desk, Stage
from rl.algorithms.contract import Preference
from rl.algorithms.make import make_algorithm
from rl.rollout import draw
from rl.train import require_settings_of_use


def run(stage: Stage, desk: Desk) -> None:
    """Write one PNG per (prompt, index) into the stage's folder; files that are there already are kept."""
    config = stage.config
    # What training would refuse is refused here: before people rate.
    algorithm = make_algorithm(config.train.algorithm, config.algorithm)
    if isinstance(algorithm, Preference) and algorithm.learns_from_steps and not config.draw.window:
        raise ConfigError(
            f"train.algorithm = {config.train.algorithm!r} learns from the steps that drew an image, but they have no "
            "noise: draw.window is 0.",
            hint=f"Set draw.window = {config.sample.window}, as sample.window, or use diffusion_dpo.",
        )
    require_rewards(config, algorithm, desk)
    family = desk.family(config)
    require_settings_of_use(algorithm, family, config.train, config.sample)
    policy_round = stage.inputs["policy_round"]
    if policy_round:
        family.load_policy(stage.checkpoint(policy_round))
        family.require_policy(config.train.weights, rank=config.train.lora_rank, targets=config.train.lora_targets)
    wanted = [
        (prompt["prompt_id"], prompt["text"], index)
        for prompt in stage.inputs["prompts"]
        for index in range(config.draw.images_per_prompt)
    ]
    rows = []
    for start in range(0, len(wanted), config.draw.batch_size):
        batch = wanted[start : start + config.draw.batch_size]
        files = [stage.folder / f"{prompt_id}-{index}.png" for prompt_id, _, index in batch]
        seeds = [(*stage.place, prompt_id, index) for prompt_id, _, index in batch]
        if not all(file.exists() for file in files):
            images = draw(
                family,
                [text for _, text, _ in batch],
                steps=config.draw.steps,
                guidance=config.sample.guidance,
                seeds=seeds,
                batch_size=config.draw.batch_size,
                eta=config.sample.eta,
                window=config.draw.window,
            )
            for file, image in zip(files, images.permute(0, 2, 3, 1).numpy(), strict=True):
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, format="PNG")
                write_atomically(file, buffer.getvalue())
        rows += [
            {"prompt_id": prompt_id, "index": index, "file": file.name, "seed": "/".join(map(str, seed))}
            for (prompt_id, _, index), file, seed in zip(batch, files, seeds, strict=True)
        ]
        stage.report(len(rows), len(wanted))
    provenance = {
        "model": config.model.name,
        "policy_round": policy_round,
        "checkpoint": stage.inputs["checkpoint"],
        "sampler": "ddim",
        "steps": config.draw.steps,
        "eta": config.sample.eta if config.draw.window else 0.0,
        "window": config.draw.window,
        "guidance": config.sample.guidance,
        "versions": {package: version(package) for package in ("torch", "diffusers", "hitl")},
    }
    stage.finish({"images": rows, "provenance": provenance})
