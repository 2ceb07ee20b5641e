"""Label Studio's JSON export (not JSON-MIN) of a project with a Pairwise, Ranker or Rating tag.

The prompt is the task's `prompt`, `caption` or `text`. Of each annotation are taken who made it (`completed_by`), when,
and for how long (`lead_time`); one that was cancelled is refused. Pairwise has no tie of its own: a choice called tie,
equal, same, both good or both bad beside it is one. A rating of 1 to 5 is a grade of the image it belongs to.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data.imports.files import Files, Row, moment, taken
from data.imports.records import Item, NotTaken, Picture, Refused, graded, preference, ranked

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_EVEN = {
    "tie": "tie",
    "equal": "tie",
    "same": "tie",
    "both good": "tie",
    "no preference": "tie",
    "both bad": "both_bad",
    "neither": "both_bad",
}
_PROMPTS = ("prompt", "caption", "text", "description")


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(), lambda row: _of_task(files, row))


def _of_task(files: Files, row: Row) -> list[Item]:
    data, annotations = row.need("data"), row.get("annotations", "completions")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise NotTaken("has no data and annotations; export the project as JSON, not as JSON-MIN or CSV")
    if not annotations:
        raise NotTaken("has no annotation")
    found: list[Item] = []
    for number, annotation in enumerate(annotations, 1):
        place = f"{row.place} annotation {annotation.get('id', number)}"
        try:
            found += _judged(files, Row(place, row.split, data, row.folder), annotation)
        except NotTaken as error:
            found.append(Refused(row=place, reason=str(error)))
    return found


def _judged(files: Files, row: Row, annotation: dict[str, Any]) -> list[Item]:
    if annotation.get("was_cancelled"):
        raise NotTaken("was cancelled (skipped) by its annotator")
    about = {
        "row": row.place,
        "prompt": row.text(*_PROMPTS),
        "split": str(row.get("split") or row.split),
        "task": str(row.get("task", "category") or ""),
        "rater": _who(annotation.get("completed_by")),
        "at": moment(annotation.get("created_at")),
        "dwell_ms": max(0, round(1000 * float(annotation.get("lead_time") or 0))),
    }
    results = {each.get("type"): each for each in annotation.get("result") or []}
    ratings = [each for each in annotation.get("result") or [] if each.get("type") == "rating"]
    even = next(filter(None, map(_even, annotation.get("result") or [])), None)
    if "pairwise" in results or even:
        choice = even or results["pairwise"].get("value", {}).get("selected")
        if choice not in ("left", "right", "tie", "both_bad"):
            raise NotTaken(f"has the pairwise answer {choice!r}; left or right is expected")
        pictures = _pair(files, row, results.get("pairwise", {}))
        return [preference(choice, pictures=pictures, is_order_known=True, **about)]
    if "ranker" in results:
        return _of_ranker(files, row, results["ranker"], about)
    if ratings:
        return _of_ratings(files, row, ratings, about)
    kinds = ", ".join(sorted(map(str, results))) or "nothing"
    raise NotTaken(f"answers {kinds}; pairwise, ranker or rating is expected")


def _who(completed_by: Any) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("id") or completed_by.get("email")
    return "" if completed_by is None else str(completed_by)


def _even(result: dict[str, Any]) -> str | None:
    """What a choice beside the pairwise tag says of both."""
    if result.get("type") != "choices":
        return None
    said = result.get("value", {}).get("choices") or []
    return next((_EVEN[word] for each in said if (word := str(each).lower().replace("_", " ")) in _EVEN), None)


def _pair(files: Files, row: Row, result: dict[str, Any]) -> tuple[Picture, ...]:
    """The two images, in the order of `to_name` where it names columns, else in that of the columns."""
    names = [name.strip() for name in str(result.get("to_name", "")).split(",")]
    if len(names) != 2 or not all(name in row.values for name in names):
        names = [name for name, value in row.values.items() if _is_image(value)]
    if len(names) != 2:
        raise NotTaken(f"has {len(names)} images in its data; a pair has 2")
    return tuple(_picture(files, row, row.values[name]) for name in names)


def _of_ranker(files: Files, row: Row, result: dict[str, Any], about: dict[str, Any]) -> list[Item]:
    """One list of ids, best first; or buckets, best first, of ids that are equal within each."""
    value = result.get("value", {}).get("ranker", result.get("value", {}))
    items = next((each for each in row.values.values() if isinstance(each, list)), [])
    images = {str(item.get("id")): item for item in items if isinstance(item, dict)}
    if isinstance(value, list):
        value = {"rank": value}
    buckets = [[str(each) for each in bucket] for name, bucket in value.items() if name != "_" and bucket]
    order = buckets if len(value) > 1 else [[each] for bucket in buckets for each in bucket]
    places = {item_id: float(place) for place, bucket in enumerate(order, 1) for item_id in bucket}
    if unknown := places.keys() - images.keys():
        raise NotTaken(f"ranks {min(unknown)!r}, which is not in its list of items")
    pictures = tuple(_picture(files, row, _image_of(images[item_id])) for item_id in places)
    return [*ranked(list(places.values()), pictures=pictures, **about)]


def _image_of(item: dict[str, Any]) -> str:
    """The image of an item of a List: a field of its own, or within HTML."""
    for value in item.values():
        if _is_image(value):
            return value
        if isinstance(value, str) and "src=" in value:
            return value.split("src=", 1)[1].lstrip("\"'").split('"')[0].split("'")[0]
    raise NotTaken(f"has the item {item.get('id')!r} without an image")


def _of_ratings(files: Files, row: Row, ratings: list[dict[str, Any]], about: dict[str, Any]) -> list[Item]:
    """Each rating's `to_name` says of which image; with one image and one rating there is no question."""
    images = {name: value for name, value in row.values.items() if _is_image(value)}
    grades: dict[str, int] = {}
    for each in ratings:
        name = str(each.get("to_name", ""))
        name = name if name in images else next(iter(images), "") if len(images) == 1 else name
        grade = each.get("value", {}).get("rating")
        if name not in images or grade not in range(1, 6):
            raise NotTaken(f"rates {name!r} with {grade!r}; an image of its data and 1 to 5 are expected")
        grades[name] = grade
    pictures = tuple(_picture(files, row, images[name]) for name in grades)
    return [graded({"overall": list(grades.values())}, pictures=pictures, **about)]


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and (
        value.startswith("data:image/")
        or unquote(urlsplit(value).path + urlsplit(value).query).lower().endswith(_ENDINGS)
    )


def _picture(files: Files, row: Row, value: str) -> Picture:
    """A file beside the export, with as much of a path such as `/data/local-files/?d=a/b.png` as is found there."""
    if not value.startswith("/data/"):
        return files.picture(value, row)
    parts = urlsplit(value)
    named = parse_qs(parts.query).get("d", [unquote(parts.path).removeprefix("/data/")])[0]
    path, reason = PurePosixPath(named.lstrip("/")), NotTaken("names no image")
    for start in range(len(path.parts)):
        try:
            return files.picture("/".join(path.parts[start:]), row)
        except NotTaken as error:
            reason = error  # of the last, which is the file's bare name
    raise NotTaken(f"{reason} (of {value!r}); copy Label Studio's media beside its export")
