"""Study: what the models of a blind study draw of its prompts, outside any round."""

import io
from pathlib import Path

from PIL import Image

from data.workspace import write_atomically
from hitl.stages.stage import Desk, Stage
from rl.rollout import draw


def run(stage: Stage, desk: Desk) -> None:
    """Write one PNG for each model, prompt and index that is asked for into the stage's folder; files that are there
    already are kept.

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
            files = [stage.folder / f"{side['side']}-{each['prompt_id']}-{each['index']}.png" for each in batch]
            seeds = [(config.project.seed, "study", each["prompt_id"], each["index"]) for each in batch]
            if not all(file.exists() for file in files):
                images = draw(
                    family,
                    [each["text"] for each in batch],
                    steps=config.evaluate.steps,
                    guidance=config.sample.guidance,
                    seeds=seeds,
                    batch_size=config.draw.batch_size,
                )
                for file, image in zip(files, images.permute(0, 2, 3, 1).numpy(), strict=True):
                    buffer = io.BytesIO()
                    Image.fromarray(image).save(buffer, format="PNG")
                    write_atomically(file, buffer.getvalue())
            rows += [
                {**each, "side": side["side"], "file": file.name, "seed": "/".join(map(str, seed))}
                for each, file, seed in zip(batch, files, seeds, strict=True)
            ]
            stage.report(len(rows), total)
    family.drop_policy()
    provenance = desk.origin(config, family.process) | {
        "steps": config.evaluate.steps,
        "eta": 0.0,
        "guidance": config.sample.guidance,
        "batch_size": config.draw.batch_size,
    }
    stage.finish({"images": rows, "provenance": provenance})
