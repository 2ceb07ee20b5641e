"""Train: DPOK (or another algorithm) on the trained-on prompts, against the reward model of this round."""

import hashlib
import json

from data.workspace import write_atomically
from hitl.core.errors import ConfigError
from hitl.core.registry import closest
from hitl.stages.model_card import model_card
from hitl.stages.stage import Desk, Stage
from reward_models.rewards.clip_head import ClipHead
from rl import ALGORITHMS
from rl.train import train


def run(stage: Stage, desk: Desk) -> None:
    """Train the LoRA; a run that was cut off goes on from its last finished epoch."""
    config = stage.config
    maker = ALGORITHMS.load(config.train.algorithm)
    try:
        algorithm = maker(**config.algorithm)
    except TypeError as error:
        raise ConfigError(
            f"[algorithm] does not fit {config.train.algorithm}: {str(error).split('() ')[-1]}.",
            hint=closest(next(iter(config.algorithm)), list(maker.__dataclass_fields__)),
        ) from error
    reward = ClipHead.load(
        stage.workspace.stage_dir(stage.round, "fit") / "reward",
        device=desk.device(config),
        chunk=config.fit.batch_size,
    )
    family = desk.family(config)
    policy = stage.checkpoint(stage.round)
    prompts = stage.inputs["prompts"]
    train(
        family,
        algorithm,
        reward,
        [prompt["text"] for prompt in prompts],
        config.train,
        config.sample,
        folder=policy,
        place=stage.place,
        tasks=[prompt["task"] for prompt in prompts] if config.train.balance_tasks else None,
        start_from=stage.checkpoint(stage.inputs["policy_round"]) if stage.inputs["policy_round"] else None,
        on_epoch=lambda epoch, metrics: stage.report(epoch, config.train.epochs, **metrics),
    )
    write_atomically(
        policy / "policy.json",
        json.dumps({"model": config.model.name, "round": stage.round, "snapshot": stage.inputs["snapshot"]}).encode(),
    )
    write_atomically(policy / "README.md", model_card(stage, family).encode())
    weights = (policy / "pytorch_lora_weights.safetensors").read_bytes()
    stage.finish(
        {
            "epochs": config.train.epochs,
            "images": config.train.epochs * config.train.prompts_per_epoch * config.train.images_per_prompt,
            "checkpoint": hashlib.sha256(weights).hexdigest(),
        }
    )
