"""Copies of large images: how large, of which images, made once, and what stands in their way."""

import io
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from data import display_copies
from data.display_copies import DisplayCopies
from data.pictures import LARGEST_SHOWN, encode_display_copy
from data.workspace import PNG_SIGNATURE, Workspace
from tests.fixtures.large_pictures import noise_png, photo_like_png


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def opened(content: bytes) -> Picture.Image:
    return Picture.open(io.BytesIO(content))


def test_a_copy_has_the_same_pixels_nearly_and_fits_where_the_original_does_not():
    png = photo_like_png(512)
    assert len(png) > LARGEST_SHOWN
    copy = encode_display_copy(io.BytesIO(png))
    assert len(copy) <= LARGEST_SHOWN
    assert (opened(copy).format, opened(copy).size) == ("WEBP", (512, 512))
    before, after = (np.asarray(opened(each).convert("L"), float) for each in (png, copy))
    assert 10 * np.log10(255**2 / np.mean((before - after) ** 2)) > 36  # decibels of the brightness


@pytest.mark.parametrize("side", [448, 608])
def test_a_picture_that_does_not_compress_gets_a_lower_quality_but_never_below_50(side: int):
    """Noise of 608 pixels a side is too large at any quality, and one of 448 at the first."""
    png = noise_png(side)
    picture = opened(png)
    sizes = {}
    for quality in (90, 80, 70, 60, 50):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=2)
        sizes[quality] = len(buffer.getvalue())
    assert sizes[90] > LARGEST_SHOWN
    assert (sizes[50] > LARGEST_SHOWN) is (side == 608)
    first = next((quality for quality in (80, 70, 60, 50) if sizes[quality] <= LARGEST_SHOWN), 50)
    assert len(encode_display_copy(io.BytesIO(png))) == sizes[first]


def test_copies_are_wanted_where_one_image_is_large(workspace: Workspace):
    copies = DisplayCopies(workspace)
    small, edge, large = (
        workspace.add_image(PNG_SIGNATURE + bytes(size - len(PNG_SIGNATURE)))
        for size in (9_000, LARGEST_SHOWN, LARGEST_SHOWN + 1)
    )
    assert not copies.are_wanted([small, edge, "0" * 64])
    assert copies.are_wanted([small, large])


def test_a_copy_is_made_once_whoever_asks_at_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    image_id = workspace.add_image(photo_like_png(256))
    made, all_here = [], threading.Barrier(8)

    def count(path: Path) -> bytes:
        made.append(path)
        return encode_display_copy(path)

    def ask() -> None:
        all_here.wait()
        found.append(copies.path(image_id))

    monkeypatch.setattr(display_copies, "encode_display_copy", count)
    copies, found = DisplayCopies(workspace), []
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = workspace.root / "cache" / "display" / image_id[:2] / f"{image_id}.webp"
    assert found == [expected] * 8
    assert made == [workspace.image_path(image_id)]
    assert [path.name for path in expected.parent.iterdir()] == [expected.name]
    expected.unlink()  # safe to delete
    assert copies.path(image_id) == expected
    assert expected.is_file()


def test_what_is_no_picture_has_no_copy_and_that_is_said(workspace: Workspace, caplog: pytest.LogCaptureFixture):
    broken = workspace.add_image(photo_like_png(64)[:-200])
    assert DisplayCopies(workspace).path(broken) is None
    assert "no copy to show" in caplog.text
    assert DisplayCopies(workspace).path("0" * 64) is None
    assert not workspace.display_dir.exists()


def test_a_picture_larger_than_webp_can_be_has_no_copy():
    buffer = io.BytesIO()
    Picture.new("RGB", (16_384, 1)).save(buffer, "PNG")
    with pytest.raises(OSError, match="16384x1 pixels is too large"):
        encode_display_copy(buffer)


def test_a_link_in_place_of_a_copy_is_not_followed(workspace: Workspace, caplog: pytest.LogCaptureFixture):
    image_id = workspace.add_image(photo_like_png(64))
    folder = workspace.display_dir / image_id[:2]
    folder.mkdir(parents=True)
    os.symlink(workspace.image_path(image_id), folder / f"{image_id}.webp")
    with caplog.at_level(logging.ERROR):
        assert DisplayCopies(workspace).path(image_id) is None
    assert "is a link" in caplog.text
