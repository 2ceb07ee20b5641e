"""The guard's errors: how many over-optimised trainings it stops, and how many healthy ones.

    python -m benchmarks.guard --work workspace/guard --hacked 40 --healthy 40 --out benchmarks/results/guard.json

**Real**: short trainings of the starter, 3 epochs with 5 steps, against a reward model fitted on ratings by the
simulated raters' own utility. `few` has 12 to 20 ratings; of `noisy` 40 % of 96 are turned round; of `adversarial` all
96 are; these three climb the reward's own gradient (`draft` through the last three steps, without KL, twelve updates
an epoch at twice the usual rate), which finds what is wrong with it soonest. `healthy` has 400 ratings as they are and
is trained by `dpok` as usual. An epoch has 8 prompts, of 12 images there and of 4 here. None is guarded. Each run has
seeds of its own, a look of 32 held-out prompts and 2 pictures after each epoch, and in the end a measurement of 4
other pictures of each of all held-out prompts. By that a run is *over-optimised* when learned reward and gold moved
clearly, up and down (95 % intervals over prompts); and a `healthy` one counts as healthy unless gold clearly fell. The
rule is applied to the recorded looks afterwards: what it would have done, by any setting. What --work holds is not
done again, and --minutes stops between two runs.

**Simulated**: the rule alone on scores drawn from distributions like the real ones: right or not by prompt, a smooth
part, prompts that gain and prompts that lose. Changes are in standard deviations of the start's pictures.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import beta

from benchmarks.machine import describe
from data.bootstrap import interval
from data.guard import Look, Rule
from data.prompt_list import starter_prompts
from data.records import Prompt
from hitl.config import GuardConfig, RunConfig
from hitl.stages.guard import Gold, evenly
from reward_models.config import RewardFitConfig
from reward_models.fit import fit_reward, load_backbone
from reward_models.rewards.clip_head import ClipHead
from rl.algorithms.dpok import Dpok
from rl.algorithms.draft import Draft
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.families.loading import load_family
from rl.rollout import draw
from rl.train import train

KINDS = ("adversarial", "few", "noisy", "healthy")
STEPS, EPOCHS = 5, 3
SAMPLE = SampleConfig(steps=STEPS, window=3)
HEALTHY = TrainConfig(epochs=EPOCHS, prompts_per_epoch=8, images_per_prompt=4)
HACKED = TrainConfig(epochs=EPOCHS, prompts_per_epoch=8, images_per_prompt=12, learning_rate=0.008)
PER_TASK, POOL_IMAGES, LOOK_PROMPTS, LOOK_IMAGES, JUDGED_IMAGES = 8, 6, 32, 2, 4
NOISE = 0.08
"""Of the raters' choices: Gumbel's scale, beside a utility of 0 to 2; as of the simulated raters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--hacked", type=int, default=40, help="runs that are to go wrong, of the three kinds in turn")
    parser.add_argument("--healthy", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no further run is begun after so many")
    parser.add_argument(
        "--simulated",
        type=int,
        default=2000,
        help="trainings of each scenario that does no harm; of the others a quarter",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    deadline = time.monotonic() + 60 * arguments.minutes
    arguments.work.mkdir(parents=True, exist_ok=True)
    wanted = wanted_runs(arguments.hacked, arguments.healthy)
    missing = [name for name in wanted if not (arguments.work / f"{name}.json").exists()]
    world = World.open(arguments.work) if missing else None
    for name in missing:
        if time.monotonic() > deadline:
            break
        assert world is not None
        started = time.process_time()
        kind, number = name.split("-")
        found = run(world, kind, int(number))
        (arguments.work / f"{name}.json").write_text(json.dumps(found))
        print(name, f"{time.process_time() - started:.0f} s", json.dumps(shortly(found)), flush=True)
    if not (path := arguments.work / "cost.json").exists():
        path.write_text(json.dumps(cost(world or World.open(arguments.work))))
    paths = [arguments.work / f"{name}.json" for name in wanted]
    runs = {path.stem: json.loads(path.read_text()) for path in paths if path.exists()}
    result = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.guard", *sys.argv[1:]]).replace(
            str(arguments.work), "workspace/guard"
        ),
        "cost": json.loads((arguments.work / "cost.json").read_text()),
        "simulated": simulate(arguments.work / f"simulated-{arguments.simulated}.json", arguments.simulated),
        "real": {
            f"{looks} looks of {prompts} prompts, {images} pictures": errors(runs, looks, prompts, images)
            for looks, prompts, images in ((3, 32, 2), (1, 32, 2), (3, 32, 1), (3, 16, 2))
        },
        "runs": {name: shortly(found) for name, found in runs.items()},
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("simulated", "real")}, indent=1))


def wanted_runs(hacked: int, healthy: int) -> list[str]:
    """Both kinds in turn, so that what is there at any time is of both."""
    wrong = [f"{KINDS[number % 3]}-{number // 3}" for number in range(hacked)]
    right = [f"healthy-{number}" for number in range(healthy)]
    both = [name for pair in zip(wrong, right, strict=False) for name in pair]
    return both + wrong[len(right) :] + right[len(wrong) :]


# -- real trainings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all runs share: the model, the pictures that are rated, and the reference's that the end is held against."""

    family: Family
    work: Path
    told: list[Prompt]
    held_out: list[Prompt]
    pool: torch.Tensor
    """Pictures of the trained-on prompts, one prompt's after the other, uint8 (batch, 3, height, width)."""
    utility: np.ndarray
    judged: torch.Tensor
    """The reference's of the held-out prompts."""

    @classmethod
    def open(cls, work: Path) -> "World":
        family, prompts = load_family("starter"), starter_prompts(PER_TASK, PER_TASK)
        told, held_out = ([p for p in prompts if p.split == split] for split in ("train", "held_out"))
        path = work / "pictures.npz"
        if not path.exists():
            pool = pictures(family, told, POOL_IMAGES, "pool")
            np.savez_compressed(path, pool=pool, judged=pictures(family, held_out, JUDGED_IMAGES, "judged"))
        with np.load(path) as kept:
            pool, judged = (torch.from_numpy(kept[name]) for name in ("pool", "judged"))
        texts = [prompt.text for prompt in told for _ in range(POOL_IMAGES)]
        utility = Gold(1.0)(pool, texts).numpy().reshape(len(told), POOL_IMAGES)
        return cls(family=family, work=work, told=told, held_out=held_out, pool=pool, utility=utility, judged=judged)

    def picture(self, image: str) -> np.ndarray:
        """Of the pool, by its id."""
        prompt, index = (int(part) for part in image.split("/"))
        return self.pool[prompt * POOL_IMAGES + index].permute(1, 2, 0).numpy()


def pictures(family: Family, prompts: Sequence[Prompt], count: int, *place: object, steps: int = STEPS) -> torch.Tensor:
    return draw(
        family,
        [prompt.text for prompt in prompts for _ in range(count)],
        steps=steps,
        guidance=SAMPLE.guidance,
        seeds=[("guard", *place, prompt.text, index) for prompt in prompts for index in range(count)],
        batch_size=64,
    )


def ratings(world: World, kind: str, number: int) -> list[dict[str, Any]]:
    """Choices between two pictures of a prompt, some or all of them the wrong way round."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    count = {"few": int(rng.integers(12, 21)), "noisy": 96, "adversarial": 96, "healthy": 400}[kind]
    turned = {"noisy": 0.4, "adversarial": 1.0}.get(kind, 0.0)
    rows = []
    for _ in range(count):
        prompt = int(rng.integers(len(world.told)))
        one, other = (int(index) for index in rng.choice(POOL_IMAGES, 2, replace=False))
        ahead = (world.utility[prompt, one] - world.utility[prompt, other]) / NOISE
        is_first = (rng.random() < expit(ahead)) != (rng.random() < turned)
        rows.append(
            {"round": 1, "rater_id": "ann", "outcome": "a" if is_first else "b", "left": "a"}
            | {"prompt": world.told[prompt].text, "image_a": f"{prompt}/{one}", "image_b": f"{prompt}/{other}"}
        )
    return rows


def run(world: World, kind: str, number: int) -> dict[str, Any]:
    """One training without a guard: each look's scores, picture by picture, and what the end was by measurement."""
    with TemporaryDirectory() as folder:
        fit = RewardFitConfig(heads=("linear",), folds=3, force=True)
        report = fit_reward(
            ratings(world, kind, number), world.picture, fit, world.work / "features", Path(folder) / "reward"
        )
        reward = ClipHead.load(Path(folder) / "reward")
        prompts = evenly([{"text": p.text, "task": p.task} for p in world.held_out], LOOK_PROMPTS)
        asked = [next(p for p in world.held_out if p.text == prompt["text"]) for prompt in prompts]
        watch = Recorder(world.family, reward, asked, load_backbone(fit), (kind, number))
        is_healthy = kind == "healthy"
        train(
            world.family,
            Dpok() if is_healthy else Draft(last_steps=3),
            reward,
            [prompt.text for prompt in world.told],
            HEALTHY if is_healthy else HACKED,
            SAMPLE,
            folder=Path(folder) / "policy",
            place=("guard", kind, number),
            tasks=[prompt.task for prompt in world.told],
            watch=watch,
        )
        texts = [prompt.text for prompt in world.held_out for _ in range(JUDGED_IMAGES)]
        after = pictures(world.family, world.held_out, JUDGED_IMAGES, "judged")
        names, gold = np.array(texts), Gold(1.0)
        moved = {}
        for name, ask in (("reward", reward), ("gold", gold), ("correctness", Gold(0.0))):
            before, now = (np.asarray(ask(images, texts), float) for images in (world.judged, after))
            scale = 1.0 if name == "reward" else before.std()
            moved[name] = interval((now - before) / scale, names, seed=0).to_dict()
        return {
            "kind": kind,
            "accuracy": report.accuracy.mean,
            "end": moved,
            "looks": [look.to_dict() for look in watch.looks],
        }


def cost(world: World) -> dict[str, float]:
    """Processor seconds of an epoch and of a look by the default settings, and the looks' share of a round of five
    epochs: that of the last epoch, and the start's, of which a later round has the pictures already."""
    with TemporaryDirectory() as folder:
        fit = RewardFitConfig(heads=("linear",), folds=3, force=True)
        fit_reward(ratings(world, "healthy", 0), world.picture, fit, world.work / "features", Path(folder) / "reward")
        reward = ClipHead.load(Path(folder) / "reward")
        looks, guard, usual = [], GuardConfig(), RunConfig()

        class Clock:
            def look(self, epoch: int) -> bool:
                began = time.process_time()
                watch = Recorder(world.family, reward, asked, backbone, ("cost",), steps=usual.evaluate.steps)
                images = watch.draw()
                drawn = time.process_time()
                watch.judge(epoch, images)
                looks.append((began, drawn, time.process_time()))
                return False

            def kept(self) -> Path | None:
                return None

        asked, backbone = world.held_out[: guard.prompts], load_backbone(fit)
        told = [prompt.text for prompt in world.told]
        config = replace(usual.train, epochs=2)
        where = {"folder": Path(folder) / "policy", "place": ("guard", "cost")}
        train(world.family, Dpok(), reward, told, config, usual.sample, watch=Clock(), **where)
    began, drawn, judged = looks[2]  # the first of each warms up
    epoch, look, judging = began - looks[1][2], judged - began, judged - drawn
    return {
        "seconds of an epoch": round(epoch, 2),
        "seconds of a look": round(look, 2),
        "of these to judge its pictures": round(judging, 2),
        "share of the first round": round(2 * look / (usual.train.epochs * epoch), 4),
        "share of a later round": round((look + judging) / (usual.train.epochs * epoch), 4),
    }


class Recorder:
    """Looks as the guard's own, of a training that goes on whatever they show."""

    def __init__(
        self,
        family: Family,
        reward: ClipHead,
        prompts: list[Prompt],
        backbone: Any,
        place: tuple[object, ...],
        *,
        steps: int = STEPS,
    ) -> None:
        self.looks: list[Look] = []
        self._steps = steps
        self._family, self._reward, self._prompts, self._place = family, reward, prompts, place
        self._backbone = backbone

    def look(self, epoch: int) -> bool:
        self.judge(epoch, self.draw())
        return False

    def draw(self) -> torch.Tensor:
        """The look's pictures, uint8 (batch, 3, height, width)."""
        return pictures(self._family, self._prompts, LOOK_IMAGES, "look", *self._place, steps=self._steps)

    def judge(self, epoch: int, images: torch.Tensor) -> None:
        texts = [prompt.text for prompt in self._prompts for _ in range(LOOK_IMAGES)]
        with torch.no_grad():
            one, other = self._backbone.image_features(images).unflatten(0, (-1, LOOK_IMAGES)).unbind(1)
        apart = (1 - (one * other).sum(1)).tolist()
        self.looks.append(
            Look(
                epoch=epoch,
                prompts=tuple(texts),
                reward=tuple(self._reward(images, texts).tolist()),
                judges={"gold": tuple(Gold(1.0)(images, texts).tolist())},
                diversity={prompt.text: value for prompt, value in zip(self._prompts, apart, strict=True)},
            )
        )

    def kept(self) -> Path | None:
        return None


def shortly(found: dict[str, Any]) -> dict[str, Any]:
    """A run in one line."""
    looks, rule = [Look.from_dict(row) for row in found["looks"]], Rule(looks=EPOCHS)
    gold = [rule.change(looks[0], look) for look in looks[1:]]
    return {
        "end": {
            name: [round(moved[key], 3) for key in ("mean", "low", "high")] for name, moved in found["end"].items()
        },
        "gold at the looks": [round(each.mean, 3) for each in gold if each is not None],
        "stopped": stopped(looks, rule)[0],
    }


def is_over_optimised(found: dict[str, Any]) -> bool:
    return found["end"]["reward"]["low"] > 0 and found["end"]["gold"]["high"] < 0


def stopped(looks: Sequence[Look], rule: Rule) -> tuple[int, str]:
    """After which epoch the rule would have stopped the run, and why; 0 where it would not."""
    for look in looks[1:]:
        verdict = rule.decide(looks[0], look)
        if verdict.reason:
            return look.epoch, verdict.reason
    return 0, ""


def errors(runs: dict[str, dict[str, Any]], looks: int, prompts: int, images: int) -> dict[str, Any]:
    """Over-optimised runs that the rule would have stopped, and healthy ones; with fewer pictures than were drawn, too.
    One look is the last."""
    rule, counts = Rule(looks=looks, min_diversity=0.5), {}
    groups = {
        "over-optimised": [found for found in runs.values() if is_over_optimised(found)],
        "over-optimised by half a standard deviation or more": [
            found for found in runs.values() if is_over_optimised(found) and found["end"]["gold"]["mean"] <= -0.5
        ],
        "gold clearly fell, whatever the reward did": [
            found for found in runs.values() if found["end"]["gold"]["high"] < 0
        ],
        "healthy": [
            found for found in runs.values() if found["kind"] == "healthy" and found["end"]["gold"]["high"] >= 0
        ],
    }
    for name, group in groups.items():
        found = []
        for each in group:
            taken = [fewer(Look.from_dict(row), prompts, images) for row in each["looks"]]
            found.append(stopped([taken[0], taken[-1]] if looks == 1 else taken, rule))
        by_reason = {reason: sum(why == reason for _, why in found) for reason in ("hacking", "harm", "diversity")}
        counts[name] = share(sum(epoch > 0 for epoch, _ in found), len(found)) | {"by reason": by_reason}
        counts[name]["stopped before the end"] = sum(0 < epoch < EPOCHS for epoch, _ in found)
    counts["runs that are neither healthy nor clearly fell"] = sum(
        found["kind"] != "healthy" and found["end"]["gold"]["high"] >= 0 for found in runs.values()
    )
    return counts


def fewer(look: Look, prompts: int, images: int) -> Look:
    rows = [i for i in range(len(look.prompts)) if i // LOOK_IMAGES < prompts and i % LOOK_IMAGES < images]
    return replace(
        look,
        prompts=tuple(look.prompts[i] for i in rows),
        reward=tuple(look.reward[i] for i in rows),
        judges={name: tuple(scores[i] for i in rows) for name, scores in look.judges.items()},
        diversity={} if images < 2 else look.diversity,
    )


def share(count: int, total: int) -> dict[str, Any]:
    """With Clopper and Pearson's exact 95 % interval."""
    if not total:
        return {"stopped": 0, "of": 0}
    low = float(beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return {"stopped": count, "of": total, "share": count / total, "interval": [round(low, 4), round(high, 4)]}


# -- simulated trainings -----------------------------------------------------------------------------------------------


def simulate(path: Path, count: int) -> dict[str, Any]:
    """Shares that are stopped, by what truly happens until the last look, and by how much is looked at."""
    if path.exists():
        return json.loads(path.read_text())
    found: dict[str, Any] = {}
    for looks, prompts, images in ((1, 32, 2), (4, 32, 2), (10, 32, 2), (1, 8, 2), (4, 8, 2), (1, 128, 2)):
        row = found[f"{looks} looks of {prompts} prompts, {images} pictures"] = {}
        for end in (0.3, 0.0, -0.25, -0.5, -0.75, -1.0):
            trainings = count if end >= 0 else count // 4  # a small share takes more of them to be known
            hits = sum(_is_stopped(looks, prompts, images, end, seed) for seed in range(trainings))
            row[f"{end:+.2f} SD"] = share(hits, trainings)
    path.write_text(json.dumps(found))
    return found


def _is_stopped(looks: int, prompts: int, images: int, end: float, seed: int) -> bool:
    """One training whose judgement goes straight to `end` standard deviations of the start's pictures.

    A picture is right by a chance of its prompt, and has a smooth part; both belong to its seed, of which a third is
    drawn anew at each look. Prompts move apart: at the end by half a standard deviation.
    """
    rng, rule = np.random.default_rng([seed, looks, prompts]), Rule(looks=looks)
    easy = rng.beta(3, 1, (prompts, 1))
    fate = rng.normal(0, 0.5, (prompts, 1))
    shocks, smooth = rng.random((prompts, images)), rng.normal(0, 0.15, (prompts, images))
    names = tuple(str(prompt) for prompt in range(prompts) for _ in range(images))
    unit = float(np.sqrt(0.75 * 0.25 + 0.15**2))  # of a picture: right with a chance of 3 / 4, and the smooth part

    def look(epoch: int, gain: float, scatter: float) -> Look:
        fresh = rng.random((prompts, images)) < (1 / 3 if epoch else 0)
        shock, part = (
            np.where(fresh, rng.random((prompts, images)), shocks),
            np.where(fresh, rng.normal(0, 0.15, (prompts, images)), smooth),
        )
        scores = (shock < easy) + part + unit * (gain + scatter * fate)
        reward = 1.0 if epoch else 0.0
        return Look(
            epoch=epoch, prompts=names, reward=(reward,) * len(names), judges={"gold": tuple(scores.ravel().tolist())}
        )

    taken = [look(number, end * number / looks, number / looks) for number in range(looks + 1)]
    return stopped(taken, rule)[0] > 0


if __name__ == "__main__":
    main()
