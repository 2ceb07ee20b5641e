"""Every algorithm of the registry on the starter: from one start, with one round's information, for the same seconds.

    python -m benchmarks.algorithms --work workspace/algorithms --out benchmarks/results/algorithms.json
    python -m benchmarks.algorithms --out benchmarks/results/algorithms.json --plot docs/images/algorithms.png

The project's own first round draws images by the reference, has simulated raters compare them and fits the reward
model; it trains nothing. From there each algorithm learns with its default settings, but for the learning rate: those
of `--rates` are tried for `--sweep` seconds, and the run whose images the raters would like most (trained-on prompts;
correctness + taste, their own utility) goes on to `--seconds`. Seconds are of processor time, as a shared machine's
clock measures its other users too; they hold all that the project does to train (of d3po also the drawing that finds
the steps again), and no judging.

Judged are images of fixed prompts and seeds. A gain is a policy's image less the reference's from the same seed:
learned reward in its own standard deviations (of the images it was fitted on), gold taste in those of the reference's
images, gold correctness graded and exact. `distance` is the mean square of the policy's output less the reference's on
the same noised images for all. The baseline is the best of 4 images of the reference by the learned reward.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

from benchmarks.figure import INK, MUTED, ORANGE, STYLE, TEAL
from benchmarks.machine import describe
from data.bootstrap import cluster_interval
from data.evaluation import GOLD, REWARD, ImageScore, best_of, summarise
from data.prompt_list import starter_prompts
from data.records import Prompt
from data.workspace import Workspace
from data.world.taste import taste
from data.world.verifier import judge
from hitl.config import RunConfig, load_config
from hitl.core.errors import TrainingError
from hitl.stages.stage import Stage
from hitl.stages.train import comparisons_of
from reward_models.rewards.clip_head import ClipHead
from rl import ALGORITHMS
from rl.algorithms.best_of_n import BestOfN
from rl.algorithms.contract import Preference
from rl.algorithms.make import make_algorithm
from rl.config import TrainConfig
from rl.families.family import Family
from rl.families.loading import load_family
from rl.randomness import generator
from rl.rollout import Trajectory, trace
from rl.train import train, train_on_comparisons

ROUND = (
    "prompts.per_task=16",
    "prompts.held_out_per_task=16",
    "draw.window=3",  # d3po learns from steps with noise
    "rate.ratings_per_round=400",
    "train.algorithm=best_of_n",  # the round trains nothing
    "server.port=0",
)
"""Settings of the round that all start from."""

RATE_FACTORS = (0.5, 2.0)
"""Learning rates that are tried, in units of the default: 0.002 and 0.008."""

JUDGED_PER_TASK = 8
JUDGED_IMAGES = 2
"""Of each prompt, of a policy."""
MEASURES = (REWARD, *GOLD)
BEST_OF = 4
"""Images of each prompt, of the reference."""
SPLITS = ("train", "held_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, help="folder of the round and of the runs; what it holds is not done again"
    )
    parser.add_argument("--only", nargs="*", choices=ALGORITHMS.names(), default=ALGORITHMS.names())
    parser.add_argument("--seconds", type=float, default=150, help="of training, for each algorithm")
    parser.add_argument("--sweep", type=float, default=60, help="of them, for each learning rate that is tried")
    parser.add_argument("--every", type=float, default=45, help="of training between two judgements")
    parser.add_argument("--rates", type=float, nargs="*", default=RATE_FACTORS, help="in units of the default")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="as of `hitl`, for all algorithms")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, help="only draw the figure of what --out holds")
    arguments = parser.parse_args()
    if arguments.plot:
        draw_figure(json.loads(arguments.out.read_text()), arguments.plot)
        return
    if arguments.work is None:
        parser.error("--work is needed to run.")
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    result = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.algorithms", *sys.argv[1:]]).replace(
            str(arguments.work), "workspace/algorithms"
        ),
        "threads": arguments.threads,
        **{name: getattr(arguments, name) for name in ("seconds", "sweep", "every")},
        "rates": list(arguments.rates),
        "algorithms": {},
    } | {key: value for key, value in result.items() if key == "algorithms"}

    def keep() -> None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    bench = Bench.open(arguments.work, arguments.settings)
    result |= {"round": bench.of_round(), "baseline": bench.baseline()}
    keep()
    for name in arguments.only:
        if result["algorithms"].get(name, {}).get("finished"):
            continue
        found = result["algorithms"][name] = {"finished": False}
        compete(bench, name, arguments, found, keep)
        found["finished"] = True
        keep()


# -- what all start from ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One round's images, comparisons and reward model, and the reference's images that policies are held against."""

    work: Path
    workspace: Workspace
    settings: list[str]
    family: Family
    reward: ClipHead
    stage: Stage
    judged: list[Prompt]
    reference: list[ImageScore]
    latents: torch.Tensor
    """Of the reference's judged images, for the distance."""

    @classmethod
    def open(cls, work: Path, settings: list[str]) -> "Bench":
        workspace = Workspace(work / "workspace")
        _run_round(workspace)
        config = load_config(workspace.round_dir(1) / "config.toml", [])
        family = load_family(config.model.name)
        reward = ClipHead.load(workspace.reward_dir(1), chunk=config.fit.batch_size)
        stage = Stage.read(workspace.stage_dir(1, "train") / "spec.json")
        judged = starter_prompts(JUDGED_PER_TASK, JUDGED_PER_TASK)
        drawn = _draw(family, judged, config, BEST_OF)
        return cls(
            work=work,
            workspace=workspace,
            settings=settings,
            family=family,
            reward=reward,
            stage=replace(stage, workspace=workspace),  # the folder may have been moved since
            judged=judged,
            reference=_score("reference", judged, drawn, reward),
            latents=drawn.latents,
        )

    def config(self, algorithm: str) -> RunConfig:
        settings = [f"train.algorithm={algorithm}", *self.settings]
        return load_config(self.workspace.round_dir(1) / "config.toml", settings)

    def of_round(self) -> dict[str, Any]:
        manifests = {stage: self.workspace.manifest(1, stage) or {} for stage in ("rate", "fit")}
        report = manifests["fit"]["report"]
        return {
            "settings": list(ROUND),
            "prompts": len(self.stage.inputs["prompts"]),
            "images": len(self.stage.inputs["drawn"]),
            "comparisons": manifests["rate"]["comparisons"],
            "reward_accuracy": report["accuracy"],
            "zero_shot_accuracy": report["zero_shot"],
        }

    def baseline(self) -> dict[str, Any]:
        """The reference, and the best of its images: how much better that one is than the prompt's usual one."""
        best = best_of(self.reference, BEST_OF)
        summary = summarise([*self.reference, *best])
        scale = _units(summary["reference_taste_sd"])
        found: dict[str, Any] = {"reference_taste_sd": summary["reference_taste_sd"]}
        for subject in ("reference", f"best_of_{BEST_OF}"):
            found[subject] = {split: summary["subjects"][subject][split]["all"] for split in SPLITS}
        gains = found["gains_of_best"] = {}
        for split in SPLITS:
            chosen = [score for score in best if score.split == split]
            for measure in MEASURES:
                usual = {
                    s.prompt_id: float(
                        np.mean([r.values[measure] for r in self.reference if r.prompt_id == s.prompt_id])
                    )
                    for s in chosen
                }
                gain = [(s.values[measure] - usual[s.prompt_id]) / scale[measure] for s in chosen]
                interval = cluster_interval(gain, [s.prompt_id for s in chosen])
                gains.setdefault(split, {})[measure] = interval.to_dict()
        return found

    def judge(self) -> dict[str, Any]:
        """The present policy: its gains on the reference with intervals, by split, and its distance."""
        config = load_config(self.workspace.round_dir(1) / "config.toml", [])
        scores = _score("policy", self.judged, _draw(self.family, self.judged, config, JUDGED_IMAGES), self.reward)
        summary = summarise([*self.reference, *scores])
        scale = _units(summary["reference_taste_sd"])
        return {
            "distance": self.distance(),
            **{
                split: {
                    "utility": _utility(summary["gains"][split]["all"], config.simulated.taste_weight),
                    **{
                        measure: {key: interval[key] / scale[measure] for key in ("mean", "low", "high")}
                        for measure, interval in summary["gains"][split]["all"].items()
                    },
                }
                for split in SPLITS
            },
        }

    @torch.no_grad()
    def distance(self) -> float:
        levels = torch.randint(
            self.family.process.levels, (len(self.latents),), generator=generator("benchmark", "levels")
        )
        noise = torch.randn(self.latents.shape, generator=generator("benchmark", "noise"))
        x_t, timesteps, _ = self.family.process.noised(self.latents, noise, levels)
        texts = [score.prompt for score in self.reference]

        def output() -> torch.Tensor:
            rows = torch.arange(len(texts)).split(64)
            told = [[texts[row] for row in part.tolist()] for part in rows]
            parts = zip(rows, told, strict=True)
            return torch.cat([self.family.predict(x_t[p], timesteps[p], t, guidance=1.0) for p, t in parts])

        policy = output()
        with self.family.reference():
            return float((policy - output()).square().mean())


def _run_round(workspace: Workspace) -> None:
    if workspace.manifest(1, "evaluate") is not None:
        return
    command = [sys.executable, "-m", "hitl.cli", "round", "--n", "1", "--raters", "simulated:3"]
    command += ["-w", str(workspace.root), *(part for setting in ROUND for part in ("--set", setting))]
    subprocess.run(command, check=True)


def _draw(family: Family, judged: Sequence[Prompt], config: RunConfig, images: int) -> Trajectory:
    wanted = [(prompt.text, index) for prompt in judged for index in range(images)]
    return trace(
        family,
        [text for text, _ in wanted],
        family.process.schedule(config.evaluate.steps, eta=0.0, window=0),
        guidance=config.sample.guidance,
        seeds=[("benchmark", text, index) for text, index in wanted],
        batch_size=config.draw.batch_size,
    )


def _score(subject: str, judged: Sequence[Prompt], drawn: Trajectory, reward: ClipHead) -> list[ImageScore]:
    images = len(drawn.prompts) // len(judged)
    rows = [(prompt, index) for prompt in judged for index in range(images)]
    learned = reward(drawn.images, drawn.prompts).tolist()
    scores = []
    for (prompt, index), picture, value in zip(rows, drawn.images.permute(0, 2, 3, 1).numpy(), learned, strict=True):
        verdict = judge(picture, prompt.text)
        assert verdict is not None  # all prompts are of the starter's world
        scores.append(
            ImageScore(
                subject=subject,
                prompt_id=prompt.prompt_id,
                prompt=prompt.text,
                task="",  # one summary of all of a split
                split=prompt.split,
                index=index,
                values={
                    REWARD: value,
                    "correctness": verdict.score,
                    "exact": float(verdict.exact),
                    "taste": taste(picture),
                },
            )
        )
    return scores


def _utility(gains: Mapping[str, Any], taste_weight: float) -> float:
    """By how much more the simulated raters like the images."""
    return gains["correctness"]["mean"] + taste_weight * gains["taste"]["mean"]


def _units(taste_sd: float) -> Mapping[str, float]:
    return {measure: taste_sd if measure == "taste" else 1.0 for measure in MEASURES}


# -- one algorithm ---------------------------------------------------------------------------------------------------


def compete(
    bench: Bench, name: str, arguments: argparse.Namespace, found: dict[str, Any], keep: Callable[[], None]
) -> None:
    """Try the learning rates, and let the best run go on; `found` is filled as it goes."""
    config = bench.config(name)
    algorithm = make_algorithm(name, config.algorithm)
    found |= {
        "settings": {key: getattr(algorithm, key) for key in ALGORITHMS.load(name).__dataclass_fields__},
        "train": asdict(config.train),
    }
    if isinstance(algorithm, BestOfN):
        return
    default = config.train.learning_rate
    runs = found["runs"] = []
    learners = []
    for factor in arguments.rates:
        learner = Learner(bench, name, replace(config.train, learning_rate=factor * default), runs)
        learner.go_on(arguments.sweep, arguments.every, keep)
        learners.append(learner)
    best = max(learners, key=lambda learner: learner.utility)
    found["learning_rate"] = best.config.learning_rate
    found["default_learning_rate"] = default
    best.go_on(arguments.seconds, arguments.every, keep)


class Learner:
    """One algorithm at one learning rate."""

    def __init__(self, bench: Bench, name: str, config: TrainConfig, runs: list[dict[str, Any]]) -> None:
        self.config = config
        self._bench, self._name = bench, name
        self._folder = bench.work / "runs" / f"{name}-{config.learning_rate:g}"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._run: dict[str, Any] = {"learning_rate": config.learning_rate, "curve": []}
        self._epoch, self._seconds = 0, 0.0
        self._metrics: dict[str, float] = {}
        runs.append(self._run)
        self._preferences = None
        algorithm = make_algorithm(name, bench.config(name).algorithm)
        if isinstance(algorithm, Preference):
            started = time.process_time()
            bench.family.drop_policy()
            self._preferences = comparisons_of(
                replace(bench.stage, config=bench.config(name)), bench.family, algorithm, None
            )
            self._seconds += time.process_time() - started

    @property
    def utility(self) -> float:
        curve = self._run["curve"]
        return float("-inf") if "failed" in self._run or not curve else curve[-1]["train"]["utility"]

    def go_on(self, seconds: float, every: float, keep: Callable[[], None]) -> None:
        """Train until so many seconds have gone into it, and judge every so many."""
        while self._seconds < seconds and "failed" not in self._run:
            goal = min(seconds, self._seconds + every)
            try:
                while self._seconds < goal:
                    self._train_an_epoch()
            except TrainingError as error:
                self._run["failed"] = error.message
                keep()
                return
            point = {"seconds": self._seconds, "epoch": self._epoch, **self._bench.judge(), "metrics": self._metrics}
            self._run["curve"].append(_rounded(point))
            keep()
            print(self._name, f"{self.config.learning_rate:g}", _short(point), flush=True)

    def _train_an_epoch(self) -> None:
        """Through the state that a killed round would go on from, which is bit for bit the same as no pause at all."""
        bench, config = self._bench, replace(self.config, epochs=self._epoch + 1)
        whole = bench.config(self._name)
        algorithm = make_algorithm(self._name, whole.algorithm)

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            self._epoch, self._metrics = epoch, metrics

        started = time.process_time()
        common: dict[str, Any] = {"folder": self._folder, "place": bench.stage.place, "on_epoch": on_epoch}
        if isinstance(algorithm, Preference):
            assert self._preferences is not None
            compared, traces = self._preferences
            train_on_comparisons(bench.family, algorithm, compared, traces, config, whole.sample, **common)
        else:
            prompts = bench.stage.inputs["prompts"]
            texts, tasks = [p["text"] for p in prompts], [p["task"] for p in prompts]
            train(bench.family, algorithm, bench.reward, texts, config, whole.sample, tasks=tasks, **common)
        self._seconds += time.process_time() - started


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _short(point: dict[str, Any]) -> str:
    parts = [f"{point['seconds']:.0f} s, epoch {point['epoch']}, distance {point['distance']:.3g}"]
    for split in SPLITS:
        gains = point[split]
        parts.append(f"{split}: " + ", ".join(f"{measure} {gains[measure]['mean']:+.2f}" for measure in MEASURES))
    return "; ".join(parts)


# -- the figure ------------------------------------------------------------------------------------------------------


PANELS = (
    *("dpok", "dpok_authors", "ddpo_is", "ddpo_sf"),
    *("rwr", "sft", "nft", "best_of_n"),
    *("draft", "refl", "diffusion_dpo", "d3po"),
)
KINDS = {
    "policy gradient": ("dpok", "dpok_authors", "ddpo_is", "ddpo_sf"),
    "regression on images": ("rwr", "sft", "nft"),
    "the reward's own gradient": ("draft", "refl"),
    "comparisons, no reward": ("diffusion_dpo", "d3po"),
    "no training": ("best_of_n",),
}

# The report's own colour for rewards is as dark as that for taste, and to a colour-blind eye of the same hue: orange is
# told from teal by everybody.
MEASURED = {"taste": (TEAL, "o", "gold taste"), "reward": (ORANGE, "D", "learned reward")}


def draw_figure(result: Mapping[str, Any], path: Path) -> None:
    """A panel for each algorithm, its gains over the seconds of its training, and the best of 4 as dashed lines."""
    missing = sorted({*result["algorithms"]} - {*PANELS})
    names = [*PANELS, *missing]  # an algorithm of another package gets a panel of its own
    rows = math.ceil(len(names) / 4)
    with rc_context(STYLE):
        figure = Figure(figsize=(11.2, 0.7 + 2.45 * rows), layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0.055, 1, 0.945), w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr]
        panels = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, name in zip(panels, names, strict=False):
            _panel(axes, name, result)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        panels[0].set_xlim(0, 1.04 * result["seconds"])
        panels[0].xaxis.set_major_locator(MultipleLocator(50))
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+g}".replace("-", "−") if y else "0"))
        for axes in panels[-4:]:
            axes.set_xlabel("seconds of training")
        for axes in panels[::4]:
            axes.set_ylabel("gain in sd")
        _legend(figure)
        figure.savefig(path, dpi=144, facecolor="white", metadata={"Software": None})


def _panel(axes: Axes, name: str, result: Mapping[str, Any]) -> None:
    found = result["algorithms"].get(name, {})
    run = _best_run(found)
    kind = next((kind for kind, names in KINDS.items() if name in names), "")
    axes.set_title(name, loc="left", fontsize=11, fontweight="bold", pad=27)
    subtitle = kind if run is None else f"{kind}, rate {run['learning_rate']:g}"
    small: dict[str, Any] = {"transform": axes.transAxes, "color": MUTED, "fontsize": 8.2}
    axes.text(0, 1.1, subtitle, **small)
    axes.axhline(0, color="#8b8e99", linewidth=1)
    best = result["baseline"]["gains_of_best"]["held_out"]
    for measure, (colour, marker, _) in MEASURED.items():
        axes.axhline(best[measure]["mean"], color=colour, linewidth=1.1, linestyle=(0, (5, 3)), alpha=0.8)
        if run is None:
            continue
        x = [0.0, *(point["seconds"] for point in run["curve"])]
        for split, line in (("train", ":"), ("held_out", "-")):
            y = [0.0, *(point[split][measure]["mean"] for point in run["curve"])]
            axes.plot(x, y, line, color=colour, linewidth=1.9 if split == "held_out" else 1.5, zorder=3)
        low, high = ([point["held_out"][measure][end] for point in run["curve"]] for end in ("low", "high"))
        axes.vlines(x[1:], low, high, color=colour, linewidth=1.1, zorder=3)
        held_out = [point["held_out"][measure]["mean"] for point in run["curve"]]
        axes.plot(x[1:], held_out, marker, color=colour, markersize=4.6, zorder=4)
    if run is None:
        exact = {split: result["baseline"]["gains_of_best"][split]["exact"]["mean"] for split in SPLITS}
    else:
        exact = {split: run["curve"][-1][split]["exact"]["mean"] for split in SPLITS}
    trained, held_out = (f"{100 * exact[split]:+.0f}".replace("-", "−") for split in SPLITS)
    axes.text(0, 1.02, f"exact: {trained} points trained on, {held_out} held out", **small)


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4.6, linewidth=1.9, label=label)
        for colour, marker, label in MEASURED.values()
    ]
    lines: dict[str, Any] = {
        "held-out prompts, 95 %": "-",
        "trained-on prompts": ":",
        f"best of {BEST_OF} of the reference, held out": (0, (5, 3)),
    }
    handles += [Line2D([], [], color=MUTED, linewidth=1.5, linestyle=lines[label], label=label) for label in lines]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, labelcolor=INK)


def _best_run(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The run that went on, or None where nothing is trained or nothing is known yet."""
    runs = [run for run in found.get("runs", ()) if run["curve"]]
    return max(runs, key=lambda run: run["curve"][-1]["seconds"], default=None)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
