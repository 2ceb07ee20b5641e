"""A policy's LoRA under the names that kohya-ss, ComfyUI and AUTOMATIC1111 know it by. Importable without torch."""

import re
from collections.abc import Mapping

import numpy as np

_HALVES = {"lora.down": "lora_down", "lora_A": "lora_down", "lora.up": "lora_up", "lora_B": "lora_up"}


def to_kohya(lora: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a UNet, as `Lora.save` writes it: `lora_unet_<module>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

    The module goes by diffusers' name with underscores, in XL too: ComfyUI and AUTOMATIC1111 map it, kohya-ss has no
    other for 1.x and 2.x. No `ss_` metadata: by a wrong base model there AUTOMATIC1111 hides a file.

    Raises:
        ValueError: a name is not one of a UNet's LoRA.
    """
    found = {}
    for name, weight in lora.items():
        parts = re.fullmatch(rf"unet\.(.+)\.({'|'.join(map(re.escape, _HALVES))})\.weight", name)
        if parts is None:
            raise ValueError(f"{name} is not of a UNet's LoRA")
        module = f"lora_unet_{parts[1].replace('.', '_')}"
        half = _HALVES[parts[2]]
        found[f"{module}.{half}.weight"] = weight
        if half == "lora_down":  # a loader multiplies by alpha / rank, and without an alpha some by 1 / rank
            found[f"{module}.alpha"] = np.array(len(weight), dtype=np.float32)
    return found
