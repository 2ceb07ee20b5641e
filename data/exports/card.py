"""The dataset card: README.md with front matter for the hub, and what a stranger has to know of the ratings."""

import math
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from data.agreement import Agreement
from data.answered import agreements, answered
from data.exports.source import Source, Tally, Written

NOT_STATED = "not stated"
_MOST_FOR_AGREEMENT = 100_000
"""Ratings: more would have to be held in memory at once."""


def write_card(source: Source, written: Written, path: Path, *, name: str) -> None:
    """Write the card of the folder of that name."""
    path.write_text(f"---\n{_front_matter(source, written)}---\n\n{_text(source, written, name)}", encoding="utf-8")


def _front_matter(source: Source, written: Written) -> str:
    from huggingface_hub import DatasetCardData

    configs = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": pattern} for split, pattern in files.items()],
            **({"default": True} if number == 0 and len(written.configs) > 1 else {}),
        }
        for number, (name, files) in enumerate(written.configs)
    ]
    facts = DatasetCardData(
        license=source.options.license or "unknown",
        task_categories=["text-to-image"],
        tags=["human-feedback", "preference", "hitl"],
        size_categories=[_size_category(max(written.rows.values(), default=0))],
        configs=configs or None,
    )
    return facts.to_yaml() + "\n"


def _size_category(rows: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for most, name in bounds if rows < most), "1M<n<10M" if rows < 10_000_000 else "n>10M")


def _text(source: Source, written: Written, name: str) -> str:
    paragraphs = [
        "# Ratings of images",
        f"What people said of images that were drawn for the same text, in the format `{source.options.format}`, "
        f"exported by hitl {version('hitl')} at fact {source.store.position} of its "
        "journal.",
        "```python\n" + written.load.replace("FOLDER", name) + "\n```",
        "## What is in it",
        _counts(source.tally, written),
        "\n".join(f"- {note}" for note in _notes(source, written)),
        "## How far the raters agree",
        _agreement(source),
        "## Consent and licence",
        _consent(source),
        f"Licence: {source.options.license or NOT_STATED}.",
        "## Checksums",
        "`manifest.json` has the SHA-256 and the size of every file.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _counts(tally: Tally, written: Written) -> str:
    rows = [
        ("prompts", len(tally.prompts)),
        ("raters", len(tally.raters)),
        ("ratings that stand", tally.ratings),
        ("comparisons of two images", tally.comparisons),
        ("of these ties", tally.ties),
        ("comparisons left out for a lost or withdrawn image", tally.lost),
        ("lost or withdrawn images", tally.lost_images),
        *((f"rows: {name}", count) for name, count in written.rows.items()),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {count} |" for name, count in rows)


def _notes(source: Source, written: Written) -> list[str]:
    options, selection = source.options, source.selection
    ties = {
        "keep": "Ties are kept, as the format writes them.",
        "drop": f"Ties are dropped ({source.tally.ties}).",
        "half": "A tie counts half for each image.",
    }[options.ties]
    notes = [ties + " `Both bad` is a tie."]
    if selection.round is not None:
        notes.append(f"Only round {selection.round}.")
    if selection.rater_ids is not None:
        notes.append(f"Only {len(selection.rater_ids)} of the raters.")
    notes.append(
        "Raters go by their names." if selection.has_names else "Raters go by pseudonyms, by when they joined."
    )
    notes += [f"Left out: {count} with {reason}." for reason, count in sorted(source.left_out.items())]
    if options.by_split:
        notes.append("Split by prompt: no prompt is in two parts.")
    return [*notes, *written.notes]


def _agreement(source: Source) -> str:
    if source.tally.ratings > _MOST_FOR_AGREEMENT:
        return f"Not worked out here for more than {_MOST_FOR_AGREEMENT} ratings; `hitl agreement` does."
    chosen = source.selection.rater_ids
    said = answered(source.store, source.selection.round)
    found = agreements(each for each in said if chosen is None or each.rating.rater_id in chosen)
    lines = [f"- {name}: {_in_words(agreement)}" for name, agreement in found.items()]
    return "Krippendorff's α, 1 for always and 0 for as often as by chance, with a 95 % interval over tasks:\n\n" + (
        "\n".join(lines) or "- Nobody answered anything yet."
    )


def _in_words(agreement: Agreement) -> str:
    if math.isnan(agreement.alpha):
        return agreement.reason
    interval = "" if math.isnan(agreement.low) else f" [{agreement.low:.2f}, {agreement.high:.2f}]"
    return f"{agreement.alpha:.2f}{interval}, from {agreement.units} things that two or more raters judged"


def _consent(source: Source) -> str:
    chosen = source.selection.rater_ids
    raters = [each for each in source.store.raters() if chosen is None or each.rater_id in chosen]
    simulated = sum(each.kind == "simulated" for each in raters)
    given = Counter(consent.version for each in raters for consent in source.store.consents(each.rater_id))
    lines = [
        f"- {count} of {len(raters)} raters agreed to the text of version `{found}`."
        for found, count in sorted(given.items())
    ]
    if not lines:
        lines = [f"- No consent of any of the {len(raters)} raters is recorded."]
    if simulated:
        lines.append(f"- {simulated} of the raters are simulated, and no people.")
    return "\n".join(lines)
