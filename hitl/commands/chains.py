"""The chains of `data.provenance` for people: a line for each fact, the newest thing first, the reference last."""

import textwrap
from collections.abc import Iterator
from typing import Any

from data.provenance import Facts

_WIDTH = 110
_MOST = 5
"""Prompts, ratings and the like that are written out; --json has them all."""


def told(facts: Facts) -> str:
    """The whole chain."""
    return "\n".join(line for part in _parts(facts) for line in part)


def _parts(facts: Facts) -> Iterator[list[str]]:
    kind = facts["kind"]
    yield {
        "image": _image,
        "rating": _rating,
        "task": _task,
        "checkpoint": _checkpoint,
        "reward": _reward,
        "reference": _reference,
        "unknown": lambda _: ["drawn by  unknown"],
    }[kind](facts) + _unknown(facts)
    if kind == "checkpoint" and "checkpoint" in facts:
        if facts["reward"]:
            yield from _parts(facts["reward"])
        else:
            yield _snapshot(facts["snapshot"])
        yield from _parts(facts["began_from"])
    if kind == "reward" and "snapshot" in facts:
        yield _snapshot(facts["snapshot"])
    if "drawn_by" in facts:
        yield from _parts(facts["drawn_by"])


def _image(facts: Facts) -> list[str]:
    made = facts["provenance"]
    return [
        f"image {facts['image_id']}",
        *_line("file", facts["file"]),
        *_line("size", f"{facts['width']} x {facts['height']} pixels"),
        *_line("prompt", _prompt(facts["prompt"])),
        *_line("drawn", _joined(f"in round {facts['round']}", _pair("seed", made.get("seed")))),
        *_line("sampler", _sampler(made)),
        *_line("on", _joined(made.get("device"), made.get("dtype"), _versions(made.get("versions")))),
        *_line("withdrawn", f"its file {facts['withdrawn']}" if facts["withdrawn"] else None),
        *_line("asked", _count(len(facts["tasks"]), "task")),
        *_ratings(facts["ratings"]),
    ]


def _rating(facts: Facts) -> list[str]:
    task = facts["task"]
    state = "stands" if facts["stands"] else "does not stand"
    if facts["voided_by"]:
        state += f": voided by {facts['voided_by']}"
    times = _joined(
        f"{facts['dwell_ms']} ms on the screen",
        None if facts["decide_ms"] is None else f"{facts['decide_ms']} ms to decide",
    )
    return [
        f"rating {facts['rating_id']}",
        *_line("by", facts["rater"]),
        *_line("said", f"{_payload(facts['payload'])} ({facts['rating_kind']})"),
        *_line("state", state),
        *_line("voids", facts["voids"]),
        *_line("at", f"{facts['server_time']} (the rater's clock: {facts['client_time'] or 'not told'})"),
        *_line("took", times),
        *_line("with", _joined(facts["input_device"], facts["screen_size"], facts["shown_as"])),
        *_line("app", f"hitl {facts['app_version']}"),
        *_line("prompt", _prompt(task["prompt"])),
        *_line("task", _choice(task)),
        *_shown("shown", facts["images"]),
        *_line("in", _joined(*(f"the snapshot of round {number}" for number in facts["snapshots"])) or "no snapshot"),
    ]


def _task(facts: Facts) -> list[str]:
    return [
        f"task {facts['task_id']}",
        *_line("prompt", _prompt(facts["prompt"])),
        *_line("asks", _joined(facts["rating_kind"], f"{_count(facts['overlap'], 'rater')}, round {facts['round']}")),
        *_line("chosen", _choice(facts)),
        *_shown("images", facts["images"]),
        *_ratings(facts["ratings"]),
    ]


def _checkpoint(facts: Facts) -> list[str]:
    head = [f"policy of round {facts['round']}", *_line("folder", facts["folder"])]
    if "checkpoint" not in facts:
        return head
    origin = facts["origin"]
    rewards = [f"{weight:g} x {name}" for name, weight in origin.get("rewards", {}).items()]
    return [
        *head,
        *_line("weights", facts["checkpoint"]),
        *_line("trained", _joined(origin.get("algorithm"), _count(facts["epochs"], "epoch"), _base(origin))),
        *_line("against", _joined(*rewards) or ("the comparisons themselves" if "rewards" in origin else None)),
        *_line("on", _joined(origin.get("device"), _versions(origin.get("versions")))),
    ]


def _reward(facts: Facts) -> list[str]:
    where = f"of round {facts['round']}" if facts["round"] else "outside any round"
    head = [f"reward model {where}", *_line("folder", facts["folder"])]
    if "fit" not in facts:
        return head
    fit = facts["fit"]
    right = f"right in {fit['accuracy']['mean']:.0%} of held-out comparisons" if fit["accuracy"] else None
    return [
        *head,
        *_line("weights", facts["reward"]),
        *_line("fitted", _joined(f"{fit['head']} on {fit['backbone']}", fit["pretrained"], right)),
        *_line("with", _versions(facts["versions"])),
    ]


def _snapshot(facts: Facts) -> list[str]:
    raters = [f"{name} {count}" for name, count in facts.get("raters", {}).items()]
    prompts = [f"“{_short(text)}” {count}" for text, count in facts.get("prompts", {}).items()]
    erased = [
        f"{each['pseudonym']}, {_count(each['rows'], 'answer')} {'kept' if each['ratings'] == 'keep' else 'taken out'};"
        f" before it was {each['snapshot']}"
        for each in facts["erasures"]
    ]
    return [
        f"answers {facts['sha256'] or '(hash not recorded)'}",
        *_line("file", facts["file"]),
        *_line("holds", _count(facts.get("comparisons"), "answer")),
        *_line("raters", _some(raters)),
        *_line("prompts", _some(prompts)),
        *(line for each in erased for line in _line("erased", each)),
        *_unknown(facts),
    ]


def _reference(facts: Facts) -> list[str]:
    return ["the reference model", *_line("model", facts["model"]), *_line("revision", facts["revision"])]


# -- parts ------------------------------------------------------------------------------------------------------------


def _line(name: str, text: Any) -> list[str]:
    """Nothing where there is nothing to say."""
    if not text:
        return []
    lines = textwrap.wrap(str(text), _WIDTH - 12, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"  {name:9} {lines[0]}", *(f"  {'':9} {line}" for line in lines[1:])]


def _unknown(facts: Facts) -> list[str]:
    return [line for sentence in facts.get("unknown", []) for line in _line("unknown", sentence)]


def _shown(name: str, images: list[Facts]) -> list[str]:
    rows = [f"{each['image_id']} (round {each['round']}, seed {each['seed']})" for each in images]
    return [line for row in rows for line in _line(name, row)]


def _ratings(ratings: list[Facts]) -> list[str]:
    rows = [
        f"{each['rating_id']}  {each['rater']}: {_payload(each['payload'])}{'' if each['stands'] else ' (voided)'}"
        for each in ratings
    ]
    more = [f"and {len(rows) - _MOST} more"] if len(rows) > _MOST else []
    return [line for row in [*rows[:_MOST], *more] for line in _line("rating", row)]


def _payload(payload: Facts) -> str:
    return ", ".join(f"{key} {value}" for key, value in payload.items()) or "undone"


def _prompt(prompt: Facts) -> str | None:
    tags = _joined(prompt.get("task"), prompt.get("split"))
    return f"“{prompt['text']}”{f' ({tags})' if tags else ''}" if prompt else None


def _choice(task: Facts) -> str:
    chosen = f"chosen by `{task['policy']}` with probability {task['propensity']:g}"
    models = f" ({task['models'][0]} against {task['models'][1]})" if task["models"] else ""
    return f"{task['task_id']}, {task['purpose']}{models}: {chosen}"


def _sampler(made: Facts) -> str | None:
    if not made.get("sampler"):
        return None
    steps = [f"{made[name]} {name}" for name in ("steps",) if name in made]
    rest = [f"{name} {made[name]:g}" for name in ("eta", "window", "guidance") if name in made]
    settings = [f"{name} {value}" for name, value in made.get("sampler_settings", {}).items()]
    return _joined(made["sampler"], *steps, *rest, *settings)


def _base(origin: Facts) -> str | None:
    return f"a change of {origin['model']}" if origin.get("model") else None


def _versions(versions: Facts | None) -> str:
    return _joined(*(f"{name} {version}" for name, version in (versions or {}).items()))


def _some(rows: list[str]) -> str:
    more = f" and {len(rows) - _MOST} more" if len(rows) > _MOST else ""
    return ", ".join(rows[:_MOST]) + more


def _short(text: str) -> str:
    return textwrap.shorten(text, 60, placeholder="…")


def _pair(name: str, value: Any) -> str | None:
    return None if value is None else f"{name} {value}"


def _count(count: int | None, noun: str) -> str | None:
    return None if count is None else f"{count} {noun}{'' if count == 1 else 's'}"


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)
