"""Which family a model is of, and its pipeline: from the starter, a diffusers folder, a hub id or a single file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError, infer_diffusers_model_type
from safetensors import SafetensorError
from safetensors.torch import load_file

from hitl.core.errors import ModelLoadError
from rl import FAMILIES

if TYPE_CHECKING:
    from rl.families.family import Family

STARTER_FOLDER = Path(__file__).parents[1] / "starter_model"
_CANNOT = (OSError, ValueError, KeyError, TypeError, SafetensorError, SingleFileComponentError)
"""What diffusers raises for files that are missing, damaged or of something else."""
_OF_SINGLE_FILES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
}
_HINT = (
    "Give `starter`, a folder that holds model_index.json, a hub id you can reach, or a .safetensors file; for a file, "
    "model.config names a folder or hub id of the same kind of model."
)


def load_family(
    name: str, *, family: str = "auto", config: str = "", device: str = "cpu", dtype: torch.dtype = torch.float32
) -> "Family":
    """The model of that name, in the family that its class says, or in the one that `family` names.

    Raises:
        ModelLoadError: it cannot be loaded, or is of no known family.
    """
    if family == "auto":
        family = "sd15" if name == "starter" else _family_of(name, config)
    return FAMILIES.load(family).load(name, config=config, device=device, dtype=dtype)


def load_pipeline(
    pipeline_class: type[DiffusionPipeline], name: str, config: str, dtype: torch.dtype, without: tuple[str, ...]
) -> Any:
    """The pipeline of that name; `without` are components that are not loaded.

    Raises:
        ModelLoadError: nothing of that name can be loaded as a pipeline of that class.
    """
    options: dict[str, Any] = {"dtype": dtype} | dict.fromkeys(without)
    try:
        if name.endswith(".safetensors"):
            options |= {"config": config} if config else {}
            pipeline = pipeline_class.from_single_file(name, **options)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            pipeline = pipeline_class.from_pretrained(STARTER_FOLDER if name == "starter" else name, **options)
    except _CANNOT as error:
        raise ModelLoadError(
            f"Cannot load {name!r} as a {pipeline_class.__name__}: {_first_line(error)}", hint=_HINT
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _family_of(name: str, config: str) -> str:
    found = _class_name(name, config)
    names = {family: FAMILIES.load(family).pipeline_class.__name__ for family in FAMILIES.names()}
    for family, class_name in names.items():
        if class_name == found:
            return family
    known = ", ".join(f"{class_name} ({family})" for family, class_name in names.items())
    if found == "StableDiffusionXLImg2ImgPipeline":
        raise ModelLoadError(
            f"{name!r} is the refiner of Stable Diffusion XL, which only finishes another model's images.",
            hint="Give the base model; its images are made without the refiner.",
        )
    raise ModelLoadError(f"{name!r} is a {found}, but these can be trained: {known}.", hint=_HINT)


def _class_name(name: str, config: str) -> str:
    try:
        if name.endswith(".safetensors") and not config:
            kind = infer_diffusers_model_type(load_file(name))
            if kind == "xl_refiner":
                return "StableDiffusionXLImg2ImgPipeline"
            return _OF_SINGLE_FILES.get(kind, str(kind))
        return str(DiffusionPipeline.load_config(config or name)["_class_name"])
    except _CANNOT as error:
        raise ModelLoadError(f"Cannot load {name!r}: {_first_line(error)}", hint=_HINT) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
