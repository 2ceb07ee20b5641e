"""The starter's open_clip model: its shape, its tokenizer over the world's words, and the folder it is saved as."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from data.world.captions import NUMBERS, plural
from data.world.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZE
from reward_models.hard_captions import SIZES

CONTEXT_LENGTH = 24
_PIXEL_MEAN, _PIXEL_STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)


def model_config(vocab_size: int) -> dict[str, Any]:
    """The `model_cfg` of open_clip: a slim ResNet with attention pooling, and a causal text transformer."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": SIZE},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "local",  # open_clip then takes the tokenizer from the folder it loads
            "width": 128,
            "heads": 4,
            "layers": 3,
            "mlp_ratio": 2.0,
        },
    }


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of the world, others letter by letter. The end token has the highest id: CLIP pools there."""
    words = {"a", "an", "and", "on", "of", "the", "no", "with", "background", "one", "light", "dark"}
    words.update(NUMBERS, COLOURS, SHAPES, SIZES, BACKGROUNDS, map(plural, SHAPES))
    words.update(word for relation in RELATIONS for word in relation.split())
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["<pad>", "<unk>", "<start>", *sorted(words), *(c for c in letters if c not in words)]
    pieces += ["##" + letter for letter in letters if letter.isalnum()] + ["<end>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", vocab["<start>"]), ("<end>", vocab["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=CONTEXT_LENGTH,
    )


def tokens_of(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt")
    return encoded.input_ids


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Unit-norm text features without computing on the padding, in two groups by length.

    Attention is causal and the end token is the last that counts, so the padding changes nothing.
    """
    lengths = tokens.argmax(1) + 1
    order = lengths.argsort(stable=True)
    features = []
    for rows in order.chunk(2):
        longest = int(lengths[rows].max())
        x = model.token_embedding(tokens[rows, :longest]) + model.positional_embedding[:longest]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:longest, :longest]))
        features.append(x[torch.arange(len(rows)), lengths[rows] - 1] @ model.text_projection)
    return functional.normalize(torch.cat(features)[order.argsort()], dim=-1)


def normalise(x: Tensor) -> Tensor:
    """Pictures in [0, 1] as the image tower wants them."""
    return (x - torch.tensor(_PIXEL_MEAN).reshape(3, 1, 1)) / torch.tensor(_PIXEL_STD).reshape(3, 1, 1)


def save_folder(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that `open_clip.create_model_and_transforms("local-dir:...")` loads: float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"size": SIZE, "mean": _PIXEL_MEAN, "std": _PIXEL_STD, "interpolation": "bicubic"}
    config = {"model_cfg": model_config(len(tokenizer)), "preprocess_cfg": preprocess | {"resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
