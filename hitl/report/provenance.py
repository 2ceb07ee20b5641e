"""What is needed to repeat a round: hashes, settings and how they changed, versions, commands."""

import hashlib
import itertools
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hitl.report.files import RoundFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    facts: tuple[tuple[str, str], ...]
    """Name and value, for the table."""
    hashes: tuple[dict[str, Any], ...]
    """Per round: number, snapshot, checkpoint, config."""
    changes: tuple[str, ...]
    """Settings that differ between rounds."""
    commands: tuple[str, ...]
    notes: tuple[str, ...]
    config: str


def provenance(rounds: Sequence[RoundFiles]) -> Provenance:
    latest = rounds[-1]
    return Provenance(
        facts=tuple(_facts(latest)),
        hashes=tuple(_hashes(files) for files in rounds),
        changes=tuple(_changes(rounds)),
        commands=tuple(_commands(rounds)),
        notes=tuple(_notes(rounds)),
        config=latest.config,
    )


def settings(files: RoundFiles) -> dict[str, Any]:
    """The round's settings under their dotted names; empty when there is no readable config."""
    try:
        tree = tomllib.loads(files.config)
    except tomllib.TOMLDecodeError:
        return {}
    return {
        f"{section}.{key}": value
        for section, entries in tree.items()
        if isinstance(entries, dict)
        for key, value in entries.items()
    }


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def simulated(files: RoundFiles) -> int | None:
    """How many of the round's raters were simulated; None when the round does not say."""
    return files.manifests.get("rate", {}).get("simulated")


def _facts(latest: RoundFiles) -> list[tuple[str, str]]:
    known = settings(latest)
    fit, train = latest.fit, latest.manifests.get("train", {})
    facts = [
        ("Model", str(latest.provenance.get("model") or known.get("model.name") or "")),
        ("Seed", str(known.get("project.seed", ""))),
        ("Algorithm", str(known.get("train.algorithm", ""))),
        ("Trained on", _trained_on(known)),
        ("Snapshot of the ratings", str(latest.manifests.get("rate", {}).get("snapshot", ""))),
        ("Checkpoint", str(train.get("checkpoint", ""))),
        ("Reward backbone", " ".join(str(fit[key]) for key in ("backbone", "fingerprint") if fit.get(key))),
        ("Settings (config.toml)", _sha(latest.config)),
        ("Sampler", _sampler(latest.provenance)),
    ]
    versions = latest.provenance.get("versions")
    if isinstance(versions, dict):
        facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))))
    if latest.times is not None:
        facts.append((f"Machine’s work, round {latest.number}", f"{when(latest.times[0])} to {when(latest.times[1])}"))
    return [(name, value) for name, value in facts if value]


def _trained_on(known: dict[str, Any]) -> str:
    """The rewards and their weights, where the fitted one is not all there is."""
    weights = {name.removeprefix("reward."): weight for name, weight in known.items() if name.startswith("reward.")}
    terms = [f"{weight:g} × {name}" for name, weight in sorted(weights.items()) if weight]
    pessimism = known.get("fit.pessimism")
    if pessimism:
        terms.append(f"the fitted one less {pessimism:g} of its standard deviations")
    return ", ".join(terms) if pessimism or weights not in ({}, {"clip_head": 1.0}) else ""


def _sampler(found: dict[str, Any]) -> str:
    parts = [str(found["sampler"])] if found.get("sampler") else []
    parts += [f"{name} {found[name]}" for name in ("steps", "eta", "guidance") if name in found]
    return ", ".join(parts)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _hashes(files: RoundFiles) -> dict[str, Any]:
    return {
        "round": files.number,
        "snapshot": files.manifests.get("rate", {}).get("snapshot", ""),
        "checkpoint": files.manifests.get("train", {}).get("checkpoint", ""),
        "config": _sha(files.config),
    }


def _changes(rounds: Sequence[RoundFiles]) -> list[str]:
    changes = []
    for before, after in itertools.pairwise(rounds):
        old, new = settings(before), settings(after)
        changes += [
            f"Round {after.number}: {name} {old.get(name, 'unset')} → {new.get(name, 'unset')}"
            for name in sorted({*old, *new})
            if old and new and old.get(name) != new.get(name) and not name.startswith("server.")
        ]
    return changes


def _commands(rounds: Sequence[RoundFiles]) -> list[str]:
    latest = rounds[-1]
    number = latest.number
    raters = simulated(latest)
    crew = f" --raters simulated:{raters}" if raters else ""
    commands = ["mkdir repeat", f"cp rounds/{number:04d}/config.toml repeat/hitl.toml"]
    if prompts := settings(latest).get("prompts.file"):
        commands.append(f"cp {shlex.quote(str(prompts))} repeat/")
    return [*commands, f"hitl round -w repeat --n {number}{crew}"]


def _notes(rounds: Sequence[RoundFiles]) -> list[str]:
    latest = rounds[-1]
    notes = []
    if _changes(rounds):
        notes.append(
            "The settings changed between rounds (above): set them with --set before the round they belong to."
        )
    raters, everybody = simulated(latest), latest.manifests.get("rate", {}).get("raters")
    if raters is None:
        notes.append(
            "With simulated raters, add --raters simulated:K as it was given; people’s answers cannot be repeated."
        )
    elif raters != everybody:
        notes.append("People rated too. Their answers are in snapshot.parquet; a repetition asks for new ones.")
    return notes
