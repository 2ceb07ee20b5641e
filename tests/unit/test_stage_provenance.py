"""What the draw stage records of its images; the other stages' records are in tests/integration/test_provenance.py."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from data.records import Prompt
from data.workspace import Workspace
from hitl.config import load_config
from hitl.stages.draw import run
from hitl.stages.stage import Desk, Stage
from rl.families.revision import revision_of

SMALL = ["draw.images_per_prompt=2", "draw.steps=2", "draw.window=1", "sample.window=1", "sample.steps=2"]


def test_every_image_is_recorded_with_all_that_drew_it(tmp_path: Path):
    config = load_config(tmp_path / "hitl.toml", SMALL)
    prompt = Prompt.of("a green heart")
    workspace = Workspace(tmp_path)
    inputs = {"prompts": [asdict(prompt)], "policy_round": 0, "checkpoint": ""}
    stage = Stage(name="draw", workspace=workspace, round=1, config=config, inputs=inputs)
    stage.folder.mkdir(parents=True)
    run(stage, Desk())
    result = json.loads((stage.folder / "result.json").read_text())
    assert [row["seed"] for row in result["images"]] == [f"0/round/1/draw/{prompt.prompt_id}/{n}" for n in (0, 1)]
    found = result["provenance"]
    assert (found["model"], found["revision"]) == ("starter", revision_of("starter"))
    assert (found["policy_round"], found["checkpoint"]) == (0, "")
    assert {name: found[name] for name in ("sampler", "steps", "eta", "window", "guidance")} == {
        "sampler": "ddim",
        "steps": 2,
        "eta": config.sample.eta,
        "window": 1,
        "guidance": config.sample.guidance,
    }
    scheduler = json.loads((Path(__file__).parents[2] / "rl/starter_model/scheduler/scheduler_config.json").read_text())
    assert found["sampler_settings"]["prediction_type"] == scheduler["prediction_type"]
    assert found["sampler_settings"]["beta_schedule"] == scheduler["beta_schedule"]
    assert (found["dtype"], found["device"].partition(" ")[0]) == ("float32", Desk().device(config))
    for library in ("hitl", "torch", "diffusers", "transformers"):
        assert found["versions"][library] == version(library)
