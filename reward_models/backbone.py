"""The open_clip model whose image and text features a reward head reads, the same for every head."""

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from hitl.core.errors import ConfigError, ModelLoadError
from reward_models.pixels import prepare, resized
from reward_models.prompts import PromptLengths, require_one_each

STARTER = "starter"
"""Name of the small model that ships with the project."""

_PROBE_TEXT = "Two Blue HEARTS, 3 stars & a naïve café; isn't it? " + "long enough to be cut off " * 20
"""What the tokenizer makes of it tells two tokenizers apart."""

_STARTER_FOLDER = Path(__file__).parent / "starter_clip"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen image tower and text tower with features of unit length.

    Pictures come as uint8, or as floats in [0, 1] when a gradient has to reach them. A picture's features never
    depend on the pictures beside it.
    """

    name: str
    pretrained: str | None
    model: Any  # an open_clip CLIP, CustomTextCLIP or CoCa: they share methods, but no type
    tokenizer: Any
    architecture: dict[str, Any]
    """open_clip's configuration of the model: layers, heads, activation, context length."""
    preprocessing: dict[str, Any]
    chunk: int = 64
    """Pictures per forward pass. Lower it when memory runs out."""
    lengths: PromptLengths = field(default_factory=PromptLengths)

    @classmethod
    def load(
        cls, name: str = STARTER, pretrained: str | None = None, *, device: str | torch.device = "cpu", chunk: int = 64
    ) -> "Backbone":
        """The model of that name: `starter`, a folder with `open_clip_config.json`, or an open_clip name and its tag.

        Raises:
            ConfigError: the name or the tag is unknown.
            ModelLoadError: the files are missing, damaged or of another shape.
        """
        source = _source(name, pretrained)
        try:
            # Weights that were trained with the quick GELU need it; a name such as ViT-L-14 alone means the plain one.
            is_quick = bool(pretrained and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
            architecture = open_clip.get_model_config(source) | ({"quick_gelu": True} if is_quick else {})
            model = open_clip.create_model(
                source, pretrained, device=device, require_pretrained=True, force_quick_gelu=is_quick
            )
            tokenizer = open_clip.get_tokenizer(source)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ModelLoadError(
                f"The reward backbone {name!r} cannot be loaded: {error}",
                hint="Use `starter`, an open_clip folder, or a name and tag whose weights are on this machine.",
            ) from error
        model.eval().requires_grad_(False)
        preprocessing = dict(model.visual.preprocess_cfg)
        return cls(
            name=name,
            pretrained=pretrained,
            model=model,
            tokenizer=tokenizer,
            architecture=architecture,
            preprocessing=preprocessing,
            chunk=chunk,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that features depend on: features of two backbones are never mixed up.

        Integers, settings and weights only: features of a probe would say the same, but their last digits change with
        the processor and the number of threads, and no rounding keeps every number off its edge.
        """
        settings = [self.preprocessing, self.architecture, self.tokenizer([_PROBE_TEXT]).tolist()]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def width(self) -> int:
        """Length of one image's or one text's feature vector."""
        return self.text_features([""]).shape[1]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def preprocess(
        self, images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch 3 s t"]:
        """What open_clip's own transform does to a PIL image, but on tensors, so that gradients pass."""
        return prepare(images.to(self.device), self.preprocessing)

    def resized(
        self, images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch 3 s t"]:
        """In [0, 1] at the size that the model sees, before it is normalised."""
        return resized(images.to(self.device), self.preprocessing)

    def image_features(
        self, images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch width"]:
        """Unit-norm features of the pictures, `chunk` of them at a time."""
        parts = [self.model.encode_image(self.preprocess(part)) for part in images.split(self.chunk)]
        return functional.normalize(torch.cat(parts).float(), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Unit-norm features of the prompts; equal prompts are encoded once."""
        distinct = list(dict.fromkeys(prompts))
        row = {prompt: index for index, prompt in enumerate(distinct)}
        tokens = self.tokenizer(distinct).to(self.device)
        self.lengths.watch(self.truncated(distinct), len(distinct), tokens.shape[1])
        encoded = torch.cat([self.model.encode_text(part) for part in tokens.split(256)])
        return functional.normalize(encoded.float(), dim=-1)[[row[prompt] for prompt in prompts]]

    def truncated(self, prompts: Sequence[str]) -> int:
        """How many prompts have more tokens than the text tower reads: those that fill more than padding beyond."""
        context = self.tokenizer.context_length
        beyond = self.tokenizer([*prompts, ""], context_length=4 * context)[:, context:]
        return int((beyond[:-1] != beyond[-1]).any(dim=1).sum())

    def features(
        self, images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"], prompts: Sequence[str]
    ) -> Float[Tensor, "batch features"]:
        """What a head reads about each picture and its prompt: see `joint_features`."""
        require_one_each(images, prompts)
        return joint_features(self.image_features(images), self.text_features(prompts))


def joint_features(
    image: Float[Tensor, "batch width"], text: Float[Tensor, "batch width"]
) -> Float[Tensor, "batch features"]:
    """[zero-shot CLIP score, image, image * text]: 1 + 2 * width numbers.

    Text features alone would cancel in the difference of two images of one prompt. The score is the sum of the last
    block; it stands alone so that a head can lean on it before it has seen many ratings.
    """
    product = image * text
    return torch.cat([product.sum(1, keepdim=True), image, product], dim=1)


def _source(name: str, pretrained: str | None) -> str:
    """The name as open_clip wants it."""
    folder = _STARTER_FOLDER if name == STARTER else Path(name).expanduser()
    if name == STARTER or folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise ModelLoadError(
                f"{folder} has no open_clip_config.json.",
                hint="Name a folder that open_clip's `local-dir:` can load, or use `starter`.",
            )
        if pretrained is not None:
            raise ConfigError(
                f"The folder {name!r} brings its own weights, but the tag {pretrained!r} was given too.",
                hint="Leave the pretrained tag empty.",
            )
        return f"local-dir:{folder}"
    if name.startswith(("hf-hub:", "local-dir:")):
        return name
    tags = open_clip.list_pretrained_tags_by_model(name)
    if name not in open_clip.list_models():
        raise ConfigError(
            f"There is no open_clip model or folder called {name!r}.",
            hint="Use `starter`, a folder, `hf-hub:<id>` or one of open_clip.list_models(), such as ViT-L-14.",
        )
    if pretrained is None or (pretrained not in tags and not Path(pretrained).is_file()):
        raise ConfigError(
            f"{name} has no weights called {pretrained!r}.", hint=f"Choose a pretrained tag: {', '.join(tags)}."
        )
    return name
