"""Study: what the models of a blind study draw of its prompts, outside any round."""

import io
from pathlib import Path

from PIL import Image

from data.workspace import write_atomically
from hitl.stages.stage import Desk, Stage
from rl.rollout import draw


def run(stage: Stage, desk: Desk) -> None:
    """Write one PNG for each model, prompt and index that is asked for into the stage's folder.

    The seed of an image is named by the study's prompt and index, and not by the model.
    """
    config = stage.config
    family = desk.family(config)
    sides, rows = stage.inputs["sides"], []
    total = sum(len(side["wanted"]) for side in sides)
    for side in sides:
        family.drop_policy()
        if side["checkpoint"]:
            family.load_policy(stage.of_this_model(Path(side["checkpoint"]), side["name"]))
        for start in range(0, len(side["wanted"]), config.draw.batch_size):
            batch = side["wanted"][start : start + config.draw.batch_size]
            seeds = [(config.project.seed, "study", each["prompt_id"], each["index"]) for each in batch]
            images = draw(
                family,
                [each["text"] for each in batch],
                steps=config.evaluate.steps,
                guidance=config.sample.guidance,
                seeds=seeds,
                batch_size=config.draw.batch_size,
            )
            for each, seed, image in zip(batch, seeds, images.permute(0, 2, 3, 1).numpy(), strict=True):
                file = f"{side['side']}-{each['prompt_id']}-{each['index']}.png"
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, format="PNG")
                write_atomically(stage.folder / file, buffer.getvalue())
                rows.append({**each, "side": side["side"], "file": file, "seed": "/".join(map(str, seed))})
            stage.report(len(rows), total)
    family.drop_policy()
    provenance = desk.origin(config, family.process) | {
        "steps": config.evaluate.steps,
        "eta": 0.0,
        "guidance": config.sample.guidance,
        "batch_size": config.draw.batch_size,
    }
    stage.finish({"images": rows, "provenance": provenance})
