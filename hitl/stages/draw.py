"""Draw: the images that people will rate, from the policy of the round before."""

import hashlib
import io
from typing import Any

from PIL import Image

from data.pictures import read_picture
from data.workspace import write_atomically
from hitl.core.errors import ConfigError
from hitl.stages.reward import require_rewards
from hitl.stages.stage import Desk, Stage
from reward_models.uncertainty import uncertain_pairs
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
    provenance = desk.origin(config, family.process) | {
        "policy_round": policy_round,
        "checkpoint": stage.inputs["checkpoint"],
        "steps": config.draw.steps,
        "eta": config.sample.eta if config.draw.window else 0.0,
        "window": config.draw.window,
        "guidance": config.sample.guidance,
        "batch_size": config.draw.batch_size,
    }
    uncertainty = _uncertainty(stage, desk, rows) if config.rate.policy == "uncertain" and policy_round else []
    stage.finish({"images": rows, "provenance": provenance, "uncertainty": uncertainty})


def _uncertainty(stage: Stage, desk: Desk, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How unsure the last round's fit is about each pair of the images drawn."""
    texts = {prompt["prompt_id"]: prompt["text"] for prompt in stage.inputs["prompts"]}
    files = [stage.folder / row["file"] for row in rows]
    ids = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    by_id = dict(zip(ids, files, strict=True))
    found = uncertain_pairs(
        stage.workspace.reward_dir(stage.round - 1),
        [(image_id, texts[row["prompt_id"]]) for image_id, row in zip(ids, rows, strict=True)],
        lambda image_id: read_picture(by_id[image_id]),
        stage.config.fit,
        stage.workspace.root / "cache" / "features",
        near_duplicate=stage.config.rate.near_duplicate,
        device=desk.device(stage.config),
    )
    return [
        {
            "prompt_id": rows[pair.first]["prompt_id"],
            "image_ids": [ids[pair.first], ids[pair.second]],
            "uncertainty": pair.uncertainty,
        }
        for pair in found
        if ids[pair.first] != ids[pair.second]
    ]
