"""How often the verifier is right: fresh scenes, worn ones, wrong captions, and what it confuses with what.

python benchmarks/verifier.py --scenes 2000 --out benchmarks/results/verifier.json
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from scipy import ndimage

from data.world import captions, scenes, verifier


def worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture as a decoder might return it: bent by up to 6 %, blurred by 0.7 to 1 pixel, noise of 6 grey levels."""
    bend = np.eye(2) + rng.uniform(-0.06, 0.06, (2, 2))
    centre = (scenes.SIZE - 1) / 2
    places = np.tensordot(bend, np.indices(picture.shape[:2]) - centre, axes=1) + centre
    blur = rng.uniform(0.7, 1.0)
    planes = [
        ndimage.gaussian_filter(ndimage.map_coordinates(plane, places, order=1, mode="nearest"), blur)
        for plane in picture.astype(np.float32).transpose(2, 0, 1)
    ]
    noisy = np.stack(planes, axis=-1) + rng.normal(0, 6, picture.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def request_of(text: str) -> captions.Request:
    request = captions.parse(text)
    assert request is not None
    return request


def meaning(text: str) -> object:
    """Equal for captions that ask for the same in other words: "a red star and a blue cross" either way round."""
    request = request_of(text)
    opposite = {"above": "below", "to the left of": "to the right of"}
    if request.relation in opposite:
        return request.wanted[::-1], opposite[request.relation]
    if request.relation is None:
        return frozenset(Counter(request.wanted).items()), None
    return request.wanted, request.relation


def other_caption(text: str, task: str, rng: np.random.Generator) -> str:
    """A caption of the same task that asks for something else."""
    texts = captions.all_texts(task)
    while meaning(other := texts[int(rng.integers(len(texts)))]) == meaning(text):
        pass
    return other


def matched(scene: scenes.Scene, reading: verifier.Reading) -> list[tuple[scenes.Item, verifier.Seen]]:
    """Drawn items with the nearest thing seen, for the confusion table; what lies over 5 pixels away is not it."""
    pairs = []
    for item in scene.items:
        near = min(reading.items, key=lambda seen: np.hypot(seen.x - item.x, seen.y - item.y), default=None)
        if near is not None and np.hypot(near.x - item.x, near.y - item.y) < 5:
            pairs.append((item, near))
    return pairs


def table(counts: Counter[tuple[str, str]], names: list[str]) -> dict[str, dict[str, int]]:
    """Drawn -> seen as -> how often."""
    return {drawn: {seen: counts[drawn, seen] for seen in names} for drawn in names}


def measure(count: int, seed: int, *, wear: bool) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    right, wrong, score, wrong_score, elapsed, items = Counter(), 0, 0.0, 0.0, 0.0, 0
    asked: Counter[str] = Counter()
    shapes: Counter[tuple[str, str]] = Counter()
    colours: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    for _ in range(count):
        task = str(rng.choice(captions.TASKS))
        text, scene = captions.sample(rng, task=task, biased=False)
        picture = scenes.render(scene)
        if wear:
            picture = worn(picture, rng)
        started = time.process_time()
        reading = verifier.read(picture)
        verdict = verifier.assess(reading, request_of(text))
        elapsed += time.process_time() - started
        wrong_verdict = verifier.assess(reading, request_of(other_caption(text, task, rng)))
        asked[task] += 1
        right[task] += verdict.exact
        score += verdict.score
        wrong += wrong_verdict.exact
        wrong_score += wrong_verdict.score
        if not verdict.exact:
            reasons[verdict.reason] += 1
        items += len(scene.items)
        for item, seen in matched(scene, reading):
            shapes[item.shape, seen.shape] += 1
            colours[item.colour, seen.colour] += 1
    return {
        "scenes": count,
        "exact": sum(right.values()) / count,
        "exact_by_task": {task: right[task] / asked[task] for task in captions.TASKS},
        "exact_with_wrong_caption": wrong / count,
        "mean_score": score / count,
        "mean_score_with_wrong_caption": wrong_score / count,
        "cpu_ms_per_picture": elapsed / count * 1000,
        "items_drawn": items,
        "items_found": sum(shapes.values()),
        "misses": dict(reasons.most_common(20)),
        "shapes": table(shapes, list(scenes.SHAPES)),
        "colours": table(colours, list(scenes.COLOURS)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = {
        "seed": options.seed,
        "fresh": measure(options.scenes, options.seed, wear=False),
        "worn": measure(options.scenes, options.seed, wear=True),
    }
    text = json.dumps(result, indent=1)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
