"""The README.md beside a policy's weights, for whoever it is shared with: what it is, how to load it, how it came."""

import json
import math
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hitl.config import CLIP_HEAD, RunConfig
from hitl.stages.stage import Stage
from rl.algorithms.best_of_n import BestOfN
from rl.algorithms.contract import Backpropagation, Preference
from rl.algorithms.make import make_algorithm
from rl.config import TrainConfig
from rl.families.family import Family

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def model_card(stage: Stage, family: Family) -> str:
    """In the form that model hubs read. Says what the train stage knows; the judgement is the report's."""
    config = stage.config
    train = config.train
    name, hub_id = _base(config.model.name)
    head = [f"base_model: {hub_id}"] if hub_id else []
    head += ["library_name: diffusers", "pipeline_tag: text-to-image", "tags:"]
    is_lora = train.weights == "lora"
    tags = (*["lora"] * is_lora, "human-feedback", "reinforcement-learning", train.algorithm, "hitl")
    head += [f"- {tag}" for tag in tags]
    algorithm: Any = make_algorithm(train.algorithm, config.algorithm)
    settings = ", ".join(f"{key} {value}" for key, value in asdict(algorithm).items())
    goes_on = stage.inputs["policy_round"]
    start = f"from the policy of round {goes_on}" if goes_on else "from the base model"
    rows = {
        "round": f"{stage.round}, going on {start}",
        "algorithm": f"`{train.algorithm}` ({settings})",
        **_weights(train, family),
        "training": _training(algorithm, train),
        "images learned from": _images(algorithm, config),
        "learned from": "comparisons alone" if isinstance(algorithm, Preference) else _judges(stage),
        **_rewards(config),
        "comparisons": f"snapshot `{stage.inputs['snapshot']}`",
        "last epoch": _last_epoch(stage) or "not recorded",
        "made with": ", ".join(f"{package} {version(package)}" for package in ("hitl", "diffusers", "torch")),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
{chr(10).join(head)}
---

# {name}, fine-tuned on comparisons

A {"LoRA" if is_lora else family.denoiser_name} for {name}, the policy of round {stage.round} of a feedback loop: raters
compared images, and `{train.algorithm}` trained the model towards what they preferred.

```python
{_code(name, hub_id, family, stage)}
```

| | |
|---|---|
{table}

A score of the reward model compares images of one prompt, and says nothing across prompts or models. Raters may be
people or simulated ones; the workspace knows, this card does not. Whether the images are better, on prompts that were
not trained on and by a judgement that was not optimised, is in the report of the round.

## License

That of the base model, whose weights it changes: see there, also for the uses it excludes.
"""


def _base(model: str) -> tuple[str, str]:
    """How to call the base model, and its hub id if it is of the hub. A whole path would tell of somebody's disk."""
    if _HUB_ID.fullmatch(model) and not Path(model).exists():
        return model, model
    return ("the starter of hitl" if model == "starter" else Path(model).name), ""


def _code(name: str, hub_id: str, family: Family, stage: Stage) -> str:
    """Runs in the folder of the card, once a base model that is not of the hub is where it says."""
    pipeline = family.pipeline_class.__name__
    is_ddim = family.denoiser_name == "unet"
    # Without a dtype a text encoder comes as it was saved and a UNet in float32: published in halves, they do not fit.
    dtype = f"dtype=torch.{stage.config.model.dtype}"
    imports, load = ["DDIMScheduler"] * is_ddim + [pipeline], 'pipeline.load_lora_weights(".")'
    if stage.config.train.weights == "full":
        part, kind = family.denoiser_name, family.denoiser_class.__name__
        imports, load = [*imports, kind], f'pipeline.{part} = {kind}.from_pretrained("{part}", {dtype})'
    lines = ["import torch", f"from diffusers import {', '.join(imports)}"]
    source = f'"{hub_id or f"path/to/{name}"}", {dtype}'
    if stage.config.model.name == "starter":
        lines += ["from rl.families.loading import STARTER_FOLDER"]
        source = f"STARTER_FOLDER, safety_checker=None, {dtype}"
    loader = "from_single_file" if name.endswith(".safetensors") else "from_pretrained"
    lines += ["", f"pipeline = {pipeline}.{loader}({source})"]
    if is_ddim:
        lines += ["pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)"]
    prompt = json.dumps(stage.inputs["prompts"][0]["text"], ensure_ascii=False)
    call = f"{prompt}, num_inference_steps={stage.config.draw.steps}, guidance_scale={stage.config.sample.guidance:g}"
    lines += [load, f"image = pipeline({call}).images[0]"]
    return "\n".join(lines)


def _weights(train: TrainConfig, family: Family) -> dict[str, str]:
    if train.weights == "full":
        return {"trained": f"all weights of the {family.denoiser_name}"}
    where = f"{', '.join(train.lora_targets)} of the {family.denoiser_name}"
    return {"LoRA": f"rank and alpha {train.lora_rank}, on {where}"}


def _rewards(config: RunConfig) -> dict[str, str]:
    """Of a training on more than the fitted reward model."""
    weights = {name: weight for name, weight in config.reward.items() if weight}
    if weights == {CLIP_HEAD: 1.0}:
        return {}
    return {"rewards": ", ".join(f"{weight:g} x `{name}`" for name, weight in weights.items())}


def _training(algorithm: Any, train: TrainConfig) -> str:
    if isinstance(algorithm, BestOfN):
        return "none: the weights are those it began with"
    each = f"{train.prompts_per_epoch} prompts x {train.images_per_prompt} images"
    if isinstance(algorithm, Preference):
        each = f"{train.prompts_per_epoch * train.images_per_prompt // 2} comparisons"
    return f"{train.epochs} epochs of {each}, learning rate {train.learning_rate:g}"


def _images(algorithm: Any, config: RunConfig) -> str:
    if isinstance(algorithm, BestOfN):
        return "none"
    steps, window = config.sample.steps, config.sample.window
    if isinstance(algorithm, Preference):
        steps, window = config.draw.steps, config.draw.window
    elif isinstance(algorithm, Backpropagation):
        window = 0
    noise = f"the first {window} with noise (eta {config.sample.eta:g})" if window else "none with noise"
    return f"{steps} steps, {noise}, guidance {config.sample.guidance:g}"


def _judges(stage: Stage) -> str:
    """What the reward model was fitted on, where there is one."""
    found = stage.workspace.manifest(stage.round, "fit") or {}
    if "report" not in found:
        return "comparisons"
    report = found["report"]
    accuracy = report["accuracy"]
    low, high = accuracy["low"], accuracy["high"]
    interval = f" [{low:.0%}, {high:.0%}]" if math.isfinite(low) else ""  # of too few prompts there is none
    return (
        f"a reward model ({report['head']} on {report['backbone']}) of {report['comparisons']} comparisons of "
        f"{report['prompts']} prompts by {report['raters']} raters; on held-out ones it prefers as they do in "
        f"{accuracy['mean']:.0%}{interval}"
    )


def _last_epoch(stage: Stage) -> str:
    """From the file of progress: a stage that is cut off after its last epoch is not told of it again."""
    path = stage.workspace.round_dir(stage.round) / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    trained = [row["metrics"] for row in rows if row["stage"] == "train"]
    known = {
        "reward_mean": "mean score {:.3g}",
        "kl_per_step": "KL to the base model {:.3g} nats for each step",
        "reference_distance": "mean square distance to the base model's output {:.3g}",
    }
    last = trained[-1] if trained else {}
    return ", ".join(text.format(last[metric]) for metric, text in known.items() if metric in last)
