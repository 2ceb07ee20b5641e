"""What the guards of the rounds saw while the policies were trained, as a plot and in words, and what they did."""

from collections.abc import Mapping, Sequence
from typing import Any

from data.bootstrap import LEAST_CLUSTERS, Interval
from hitl.report import figures, words
from hitl.report.files import RoundFiles
from hitl.report.judgement import BY_KEY
from hitl.report.provenance import settings
from hitl.report.sections import Panel, PanelGroup


def guard_answer(files: RoundFiles) -> words.Answer | None:
    """What a round's guard did; None where nothing is known of one."""
    guard = files.guard
    if not guard:
        return None
    said = str(guard.get("words") or "")
    seen = sum(look["epoch"] > 0 for look in _looks(files))
    prompts = int(guard.get("prompts") or 0)
    if not said and seen and prompts < LEAST_CLUSTERS:
        few = words.count(prompts, "held-out prompt")
        said = f"It could not: it looked at {few}, and of fewer than {LEAST_CLUSTERS} nothing is concluded."
    elif not said and seen:
        times = words.count(seen, "look")
        said = (
            f"No: in {times} while training, at {words.count(prompts, 'held-out prompt')}, {_judges(guard)} did not "
            "clearly fall. It stops a training whose held-out pictures get worse."
        )
    return words.Answer(question="Did the guard step in?", sentences=(said,)) if said else None


def guard_looks(rounds: Sequence[RoundFiles]) -> PanelGroup | None:
    """Every round's looks, the rounds one after the other; None where there are none."""
    found = {files.number: _drawn(files) for files in rounds}
    if not any(each.reward or each.judgement for each in found.values()):
        return None
    names = dict.fromkeys(_judges(files.guard) for files in rounds if files.guard.get("judges"))
    panel = Panel(
        title="Reward and judgement while training",
        svg=figures.looks(
            "guard-looks",
            found,
            alt="Change of the learned reward and of the judgement since each round’s start, by epoch",
        ),
        note="If the judgement of held-out pictures falls clearly below 0, which is where its round began, the guard "
        "stops the training (dashed line); the ring marks the policy that the round kept.",
    )
    judgement = f"judgement by {' or '.join(names)}, which training does not see" if names else "judgement by others"
    legend = (("reward", "learned reward, which training climbs"), ("policy", judgement))
    return PanelGroup(title="What the guard saw", panels=(panel,), legend=legend)


def guard_gaps(rounds: Sequence[RoundFiles]) -> list[str]:
    """Trained rounds of which nobody knows what a guard saw, and why."""
    unwatched: dict[str, list[str]] = {}
    for files in rounds:
        known = settings(files)
        if "train" not in files.manifests or _looks(files) or known.get("train.algorithm") == "best_of_n":
            continue
        if "guard.on" not in known or files.guard:
            why = "an older version kept no looks"
        elif not known["guard.on"]:
            why = "guard.on was false"
        else:
            why = "no prompt was held out"
        unwatched.setdefault(why, []).append(f"round {files.number}")
    return [
        f"Nothing is known of how {words.listed(numbers)} fared while training: {why}."
        for why, numbers in unwatched.items()
    ]


def _looks(files: RoundFiles) -> list[dict[str, Any]]:
    """From the manifest; of a round that is being trained, as its metrics have them."""
    reported = [{"epoch": row["step"], **(row.get("metrics") or {})} for row in files.stage_metrics("guard")]
    return files.guard.get("looks") or ([] if "train" in files.manifests else reported)


def _drawn(files: RoundFiles) -> figures.Looks:
    found = _looks(files)
    steps = [int(row["step"]) for row in files.stage_metrics("train")]
    trained = files.manifests.get("train", {}).get("epochs") or max(
        [0, *steps, *(int(look["epoch"]) for look in found)]
    )
    return figures.Looks(
        epochs=int(trained),
        reward=_change(found, "reward"),
        judgement=_change(found, "judgement"),
        kept=files.guard.get("kept"),
        is_stopped=bool(files.guard.get("reason")),
    )


def _change(found: Sequence[Mapping[str, Any]], name: str) -> dict[int, Interval]:
    """Epoch -> by how much it moved since the round began; of few prompts nothing is there."""
    return {
        int(look["epoch"]): Interval(look[name], look[f"{name}_low"], look[f"{name}_high"], 0, 0)
        for look in found
        if figures.finite([look.get(name), look.get(f"{name}_low"), look.get(f"{name}_high")])[2:]
    }


def _judges(guard: Mapping[str, Any]) -> str:
    names = guard.get("judges") or ()
    return words.listed(BY_KEY[name].noun if name in BY_KEY else str(name) for name in names) or "the judgement"
