"""Rewards, one file each: `load(**settings)` makes one, and calling it with images and prompts scores them.

Rules, checked for every entry of the registry: uint8 images `(batch, 3, h, w)` in RGB and one prompt each; float32
scores out, finite; a score depends on its own image and prompt alone.
"""
