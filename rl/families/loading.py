"""Which family a model is of, and its pipeline: from the starter, a diffusers folder, a hub id or a single file."""

import inspect
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError, infer_diffusers_model_type
from safetensors import SafetensorError, safe_open

from hitl.core.errors import ModelLoadError
from rl import FAMILIES

if TYPE_CHECKING:
    from rl.families.family import Family

STARTER_FOLDER = Path(__file__).parents[1] / "starter_model"
_CANNOT = (OSError, ValueError, KeyError, TypeError, SafetensorError, SingleFileComponentError)
"""What diffusers raises for files that are missing, damaged or of something else."""
_REFINER = "StableDiffusionXLImg2ImgPipeline"
_OF_SINGLE_FILES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "xl_refiner": _REFINER,
    "sd3": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
}
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def load_family(
    name: str, *, family: str = "auto", config: str = "", device: str = "cpu", dtype: torch.dtype = torch.float32
) -> "Family":
    """The model of that name, in the family that its class says, or in the one that `family` names.

    Raises:
        ModelLoadError: it cannot be loaded, is of no known family, or of another than the one named.
    """
    found = _class_name(name, config)
    classes = {known: FAMILIES.load(known).pipeline_class.__name__ for known in FAMILIES.names()}
    fitting = [known for known, class_name in classes.items() if class_name == found]
    if family == "auto":
        if not fitting:
            raise _unknown(name, found, classes)
        family = fitting[0]
    elif fitting and family not in fitting:
        raise ModelLoadError(
            f"model.family is {family!r}, but {name!r} is a {found}, which is of {fitting[0]!r}.",
            hint=f'Set model.family = "auto", or "{fitting[0]}".',
        )
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
            options |= {"config": config} | _left_out_by(pipeline_class, config) if config else {}
            options |= _without_t5(pipeline_class, name)
            pipeline = pipeline_class.from_single_file(name, **options)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            folder = str(STARTER_FOLDER) if name == "starter" else name
            options |= _left_out_by(pipeline_class, folder)
            _require_folders(pipeline_class, folder, options)
            pipeline = pipeline_class.from_pretrained(folder, **options)
    except _CANNOT as error:
        raise ModelLoadError(
            f"Cannot load {name!r} as a {pipeline_class.__name__}: {_first_line(error)}", hint=_hint(name)
        ) from error
    _require_words(pipeline, name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _parts(pipeline_class: type[DiffusionPipeline], folder: str) -> dict[str, list[str | None]]:
    """Component: [library, class], both None where it was left out."""
    return {part: of for part, of in pipeline_class.load_config(folder).items() if isinstance(of, list)}


def _left_out_by(pipeline_class: type[DiffusionPipeline], folder: str) -> dict[str, None]:
    """What was left out when the folder was saved (T5, often) must be left out by name again."""
    return dict.fromkeys(part for part, of in _parts(pipeline_class, folder).items() if of[0] is None)


def _without_t5(pipeline_class: type[DiffusionPipeline], file: str) -> dict[str, None]:
    """Single files of Stable Diffusion 3 come with and without the T5 encoder, which is the largest part."""
    if "text_encoder_3" not in inspect.signature(pipeline_class).parameters:
        return {}
    with safe_open(file, "pt") as tensors:
        has_t5 = any(key.startswith("text_encoders.t5xxl.") for key in tensors.keys())  # noqa: SIM118
    return {} if has_t5 else dict.fromkeys(("text_encoder_3", "tokenizer_3"))


def _require_folders(pipeline_class: type[DiffusionPipeline], folder: str, without: Collection[str]) -> None:
    """Raise an OSError where a local folder lacks a part: transformers makes an empty tokenizer out of nothing."""
    parts = _parts(pipeline_class, folder).keys() - without
    if Path(folder).is_dir() and (missing := sorted(part for part in parts if not Path(folder, part).is_dir())):
        raise FileNotFoundError(f"it has no {' and no '.join(missing)}")


def _require_words(pipeline: Any, name: str) -> None:
    """Raise where a tokenizer knows far fewer tokens than its encoder: without its files it knows next to none."""
    for part in ("", "_2", "_3"):
        tokenizer, encoder = (getattr(pipeline, f"{kind}{part}", None) for kind in ("tokenizer", "text_encoder"))
        if tokenizer is not None and encoder is not None and len(tokenizer) < encoder.config.vocab_size / 2:
            raise ModelLoadError(
                f"The tokenizer{part} of {name!r} knows {len(tokenizer)} tokens, but its text encoder "
                f"{encoder.config.vocab_size}: files are missing.",
                hint=_hint(name),
            )


def _class_name(name: str, config: str) -> str:
    """Of the pipeline that the model is for."""
    try:
        if name == "starter":
            config = str(STARTER_FOLDER)
        elif name.endswith(_PICKLES):
            raise ModelLoadError(
                f"{name!r} is a pickle, which can run any code as it is loaded.",
                hint="Use the .safetensors file of the same model, or a folder in diffusers' format.",
            )
        elif name.endswith(".safetensors"):
            kind = _OF_SINGLE_FILES.get(found := _kind_of_file(name), found)
            if not config:
                return kind
        elif _is_path(name) and not Path(name).exists():
            raise ModelLoadError(f"There is no {name!r}.", hint=_hint(name))
        with warnings.catch_warnings():  # diffusers asks the hub in a way that the hub's library has left behind
            warnings.filterwarnings("ignore", message="The `local_dir_use_symlinks` argument")
            return str(DiffusionPipeline.load_config(config or name)["_class_name"])
    except _CANNOT as error:
        raise ModelLoadError(f"Cannot load {name!r}: {_first_line(error)}", hint=_hint(name)) from error


def _kind_of_file(name: str) -> str:
    """The kind of model, by diffusers' word for it, read off the names and shapes alone: a file may be of 16 GB."""
    with safe_open(name, "pt") as file:
        shapes = {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in file.keys()}  # noqa: SIM118
    if all("lora" in key or key.endswith(".alpha") for key in shapes):
        raise ModelLoadError(
            f"{name!r} holds a LoRA, which is what changes a model, and not a model.",
            hint="Give the model that it was made for.",
        )
    return str(infer_diffusers_model_type(shapes))


def _unknown(name: str, found: str, classes: dict[str, str]) -> ModelLoadError:
    if found == _REFINER:
        return ModelLoadError(
            f"{name!r} is the refiner of Stable Diffusion XL, which only finishes another model's images.",
            hint="Give the base model; its images are made without the refiner.",
        )
    known = ", ".join(f"{class_name} ({family})" for family, class_name in classes.items())
    return ModelLoadError(
        f"{name!r} is a {found}, but these can be trained: {known}.",
        hint="Give a model of one of these. For one that is saved under another class and has the same parts, such as "
        "StableDiffusionImg2ImgPipeline, set model.family.",
    )


def _hint(name: str) -> str:
    """What to do about a model that is not there or not whole."""
    if name.endswith(".safetensors"):
        whole = "Download it again where it is not whole. " if Path(name).exists() else "Check the path. "
        return f"{whole}model.config names a folder or hub id of the same kind of model, for tokenizers and settings."
    if Path(name).exists():
        return "Download or copy it again: a file is missing or damaged, or model_index.json is not there."
    if _is_path(name):
        return "Check the path: a folder that holds model_index.json, or a .safetensors file."
    return (
        "Check the hub id and the network: HF_HUB_OFFLINE must not be 1, a gated model needs `hf auth login`. Or give "
        "`starter`, a folder that holds model_index.json, or a .safetensors file."
    )


def _is_path(name: str) -> bool:
    """And no hub id, which is a word or two with a slash between them."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
