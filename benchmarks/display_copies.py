"""What the copies of large images that the rating page shows cost and save: time, bytes, and how near they come.

    python -m benchmarks.display_copies --out benchmarks/results/display_copies.json

Of a photograph that comes with matplotlib, and of a picture that has the amplitudes of photographs at every scale but
no smooth parts, which is harder to compress. Times are medians over repeats of the processor time of the one thread
that works, which a busy machine disturbs little. `seconds_method_4` and `bytes_method_4` are of WebP's default effort
at the first quality.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image

from benchmarks.machine import describe
from data.pictures import encode_display_copy
from tests.fixtures.large_pictures import photo_like_png

SIDES = (512, 1024)
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/display_copies.json"))
    out = parser.parse_args().out
    pictures: dict[str, Callable[[int], bytes]] = {
        "photograph": photograph_png,
        "photograph-like": photo_like_png,
    }
    found: dict[str, Any] = {"machine": describe(), "command": f"python -m benchmarks.display_copies --out {out}"}
    for name, make in pictures.items():
        for side in SIDES:
            found[f"{name}, {side} pixels a side"] = measured = measure(make(side))
            print(f"{name} {side}: {measured}")
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(png: bytes) -> dict[str, float]:
    copy, seconds = timed(lambda: encode_display_copy(io.BytesIO(png)))
    usual, usual_seconds = timed(lambda: encode_usually(png))
    before, after = (np.asarray(Image.open(io.BytesIO(each)).convert("L"), float) for each in (png, copy))
    return {
        "png_bytes": len(png),
        "copy_bytes": len(copy),
        "seconds": round(seconds, 4),
        "brightness_psnr_db": round(10 * float(np.log10(255**2 / np.mean((before - after) ** 2))), 1),
        "bytes_method_4": len(usual),
        "seconds_method_4": round(usual_seconds, 4),
    }


def encode_usually(png: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


def timed(work: Callable[[], bytes]) -> tuple[bytes, float]:
    """What the work gives, and the median of its seconds of processor time."""
    times = []
    result = work()
    for _ in range(REPEATS):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return result, median(times)


def photograph_png(side: int) -> bytes:
    """The square in the middle of matplotlib's portrait of Grace Hopper (512 x 600 pixels), scaled where it must be."""
    photograph = Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB")
    photograph = photograph.crop((0, 44, 512, 556))
    buffer = io.BytesIO()
    photograph.resize((side, side), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
