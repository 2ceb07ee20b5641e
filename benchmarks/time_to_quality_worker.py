"""One process of `benchmarks.time_to_quality`, on either side: trains on and on, and judges its policy every epoch.

    python -m benchmarks.time_to_quality_worker '{"side": "trl", "reward": "brightness", ...}'

The job is one JSON object, and so is every line that is printed, the first one of the reference. Whoever reads the
lines ends it. It runs in TRL's environment, too: what one environment alone has is imported by its side alone.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from rl.randomness import generator


class Watch:
    """The clock of training, which stands still while the policy is judged."""

    def __init__(
        self,
        score: Callable[[torch.Tensor, Sequence[str]], torch.Tensor],
        draw: Callable[[], torch.Tensor],
        prompts: list[str],
    ) -> None:
        from benchmarks.scores import correctness  # it needs scipy, which TRL's environment has from `packages` alone

        self.score, self.draw = score, draw
        self.correctness = partial(correctness, prompts=prompts)
        self.seconds = self.cpu_seconds = 0.0
        self.judge(0)

    def judge(self, images: int) -> None:
        """After learning from so many images; by the first one of none the clock is set."""
        if images:
            self.seconds += time.monotonic() - self.wall
            self.cpu_seconds += time.process_time() - self.cpu
        pictures = self.draw()
        scores = self.score(pictures, []).double()
        line = {
            "images": images,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "mean": round(float(scores.mean()), 5),
            "std": round(float(scores.std(correction=0)), 5),
            "correctness": round(float(self.correctness(pictures).mean()), 5),
        }
        print(json.dumps(line), flush=True)
        self.wall, self.cpu = time.monotonic(), time.process_time()


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_flush_denormal(True)
    torch.set_num_threads(job["threads"])
    {"trl": theirs, "ours": ours}[job["side"]](job)


def theirs(job: dict[str, Any]) -> None:
    from benchmarks.peer_trl_worker import trainer_of

    sys.path += job["packages"]  # behind TRL's own, which have no scipy: the taste needs it
    score = reward_of(job["reward"])

    def reward(images: torch.Tensor, prompts: Any, metadata: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return score((images.float() * 255).round().to(torch.uint8), prompts), {}

    trainer = trainer_of(job, reward)
    pipeline = trainer.sd_pipeline.sd_pipeline
    unet = pipeline.unet.config
    shape = (unet.in_channels, unet.sample_size, unet.sample_size)
    starts = torch.stack([torch.randn(shape, generator=generator(*seed)) for seed in judged_seeds(job)])

    def draw() -> torch.Tensor:
        drawn = pipeline(
            judged_prompts(job),
            latents=starts,
            num_inference_steps=job["steps"],
            guidance_scale=job["guidance"],
            output_type="pt",
        )
        return (drawn.images.float() * 255).round().to(torch.uint8)

    watch = Watch(score, draw, judged_prompts(job))
    step = 0
    for epoch in count():
        step = trainer.step(epoch, step)
        watch.judge((epoch + 1) * job["groups"] * job["members"])


def ours(job: dict[str, Any]) -> None:
    from benchmarks.peer_ours_worker import settings_of
    from rl.families.sd15 import StableDiffusion15
    from rl.rollout import draw
    from rl.train import train

    reward = reward_of(job["reward"])
    family = StableDiffusion15.load("starter")
    algorithm, config, sample = settings_of({**job, "epochs": sys.maxsize})

    def drawn() -> torch.Tensor:
        return draw(
            family,
            judged_prompts(job),
            steps=job["steps"],
            guidance=job["guidance"],
            seeds=judged_seeds(job),
            batch_size=job["judged"],
        )

    watch = Watch(reward, drawn, judged_prompts(job))
    train(
        family,
        algorithm,
        reward,
        job["prompts"],
        config,
        sample,
        folder=Path(job["folder"]),
        place=("quality", job["seed"]),
        on_epoch=lambda epoch, metrics: watch.judge(epoch * job["groups"] * job["members"]),
    )


def judged_prompts(job: dict[str, Any]) -> list[str]:
    return [job["prompts"][i % len(job["prompts"])] for i in range(job["judged"])]


def judged_seeds(job: dict[str, Any]) -> list[tuple[object, ...]]:
    return [("judge", i) for i in range(job["judged"])]


def reward_of(name: str) -> Callable[[torch.Tensor, Sequence[str]], torch.Tensor]:
    """A score of each uint8 image (batch, 3, height, width), whatever its prompt. What it needs is imported here: in
    TRL's environment it is not there from the start."""
    if name == "brightness":
        return lambda images, prompts: images.float().mean(dim=(1, 2, 3))
    if name == "jpeg_size":
        from reward_models.rewards.jpeg_size import JpegSize

        return JpegSize()
    from data.world.taste import taste

    return lambda images, prompts: torch.tensor([taste(image.numpy()) for image in images.permute(0, 2, 3, 1)])


if __name__ == "__main__":
    main()
