"""Argilla 2's records: the JSON of `records.to_json` or `to_list`, or the dataset of `records.to_datasets`.

The fields are the prompt and the images. A label question says which image is better, by its field's name, by its
letter or number, or left and right; a ranking question puts the fields in order; a rating question of 1 to 5 grades one
image, that of its name where there are several. Who answered is `user_id`. Answers that were not submitted are refused.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from data.imports.files import Files, Row, taken
from data.imports.pickapic import tables
from data.imports.records import Item, Judged, NotTaken, Refused, graded, preference, ranked

_PROMPTS = ("prompt", "caption", "text", "instruction", "input")
_CHOICES = {
    **dict.fromkeys(("a", "1", "left", "first", "image_a"), "left"),
    **dict.fromkeys(("b", "2", "right", "second", "image_b"), "right"),
    **dict.fromkeys(("tie", "equal", "same"), "tie"),
    **dict.fromkeys(("both bad", "both_bad", "neither"), "both_bad"),
}


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(tables(files)), lambda row: _of_record(files, row))


def _of_record(files: Files, row: Row) -> list[Item]:
    fields, answers = _parts(row.values)
    record = Row(row.place, row.split, fields, row.folder)
    images = {name: value for name, value in fields.items() if name not in _PROMPTS and _is_image(value)}
    if not images:
        raise NotTaken("has no field with an image")
    if not answers:
        raise NotTaken("has no response")
    prompt = record.text(*_PROMPTS)
    found: list[Item] = []
    for user, said in answers.items():
        about: dict[str, Any] = {"row": f"{row.place} by {user or 'nobody'}", "prompt": prompt, "split": row.split}
        try:
            submitted = {name: value for name, (value, status) in said.items() if status in ("submitted", None)}
            if not submitted:
                raise NotTaken("was not submitted: it is a draft or was discarded")
            found += _judged(files, record, images, submitted, about | {"rater": user})
        except NotTaken as error:
            found.append(Refused(row=about["row"], reason=str(error)))
    return found


def _parts(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, tuple[Any, str | None]]]]:
    """The fields, and by user and question what was answered, with its status, of either form of a record."""
    answers: dict[str, dict[str, tuple[Any, str | None]]] = defaultdict(dict)
    if isinstance(values.get("fields"), dict):
        for question, responses in (values.get("responses") or {}).items():
            for each in responses or []:
                answers[str(each.get("user_id") or "")][question] = each.get("value"), each.get("status")
        return values["fields"], answers
    fields = {name: value for name, value in values.items() if "." not in name}
    for name, responses in values.items():
        if not name.endswith(".responses") or not responses:
            continue
        users = values.get(f"{name}.users") or [""] * len(responses)
        states = values.get(f"{name}.status") or [None] * len(responses)
        for value, user, status in zip(responses, users, states, strict=False):
            answers[str(user or "")][name.removesuffix(".responses")] = value, status
    return fields, answers


def _is_image(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("bytes") is not None or value.get("path") is not None
    return isinstance(value, str) and (
        value.startswith(("data:image/", "http://", "https://"))
        or value.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"))
    )


def _judged(
    files: Files, record: Row, images: dict[str, Any], said: dict[str, Any], about: dict[str, Any]
) -> list[Item]:
    ratings: dict[str, int] = {}
    found: list[Item] = []
    for question, value in said.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            ranks = {str(each.get("value")): float(each.get("rank") or 0) for each in value}
            if unknown := ranks.keys() - images.keys():
                raise NotTaken(f"ranks {min(unknown)!r}, which is no field with an image")
            pictures = tuple(files.picture(images[name], record) for name in ranks)
            found += ranked(list(ranks.values()), pictures=pictures, **about)
        elif isinstance(value, str) and (choice := _choice(value, images)):
            pictures = tuple(files.picture(each, record) for each in images.values())
            found.append(preference(choice, pictures=pictures, **about))
        elif type(value) is int:
            name = next((name for name in images if name in question), next(iter(images)) if len(images) == 1 else "")
            if not name or value not in range(1, 6):
                raise NotTaken(f"answers {question!r} with {value}; a grade of 1 to 5 of one image is expected")
            ratings[name] = value
    if ratings:
        pictures = tuple(files.picture(images[name], record) for name in ratings)
        found.append(graded({"overall": [*ratings.values()]}, pictures=pictures, **about))
    if not found:
        raise NotTaken(f"answers {', '.join(said)} with nothing that compares, ranks or grades its images")
    return _once(found)


def _choice(value: str, images: dict[str, Any]) -> str | None:
    """What a label says of two images, in the order of the fields."""
    word = value.strip().lower()
    if len(images) != 2:
        return None
    names = [name.lower() for name in images]
    if word in names:
        return ("left", "right")[names.index(word)]
    return _CHOICES.get(word)


def _once(found: list[Item]) -> list[Item]:
    """Of several questions that compare the same images the first: a rater says once which is better."""
    judged = [each for each in found if isinstance(each, Judged)]
    kinds = {each.kind: each for each in reversed(judged)}
    is_one_pair = len(kinds) == 1 and len(judged) > 1 and judged[0].kind == "pairwise"
    return [judged[0]] if is_one_pair and len({each.pictures for each in judged}) == 1 else [*judged]
