"""A vision-language model that is asked about pictures, whichever of transformers' image-text-to-text models it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from hitl.core.errors import ConfigError
from reward_models.prompts import require_one_each
from reward_models.weights import from_pretrained


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLanguage:
    model: Any
    processor: Any
    template: str
    """What surrounds a question where the processor brings no chat template, such as `USER: <image>\\n{question}
    ASSISTANT:`. Empty: the chat template, or the bare question."""
    chunk: int

    @classmethod
    def load(cls, model: str, *, dtype: str, template: str, device: str | torch.device, chunk: int) -> "VisionLanguage":
        """The model and processor in a folder or of a hub id.

        Raises:
            ConfigError: `dtype` or `template` cannot be used.
            ModelLoadError: they are not here and cannot be fetched.
        """
        if dtype not in ("float32", "float16", "bfloat16"):
            raise ConfigError(f"dtype is {dtype!r}.", hint="Use float32, float16 or bfloat16.")
        if template and "{question}" not in template:
            raise ConfigError(f"The template {template!r} has no {{question}}.", hint="Say where the question goes.")
        processor = from_pretrained(AutoProcessor.from_pretrained, model)
        if tokenizer := getattr(processor, "tokenizer", None):
            tokenizer.padding_side = "left"  # what is generated follows the last token of each question
        found = from_pretrained(AutoModelForImageTextToText.from_pretrained, model, dtype=getattr(torch, dtype))
        return cls(
            model=found.to(device).eval().requires_grad_(False), processor=processor, template=template, chunk=chunk
        )

    def answers(self, images: UInt8[Tensor, "batch 3 h w"], questions: Sequence[str], *, max_tokens: int) -> list[str]:
        """What the model says, its likeliest token at every place."""
        texts = []
        for inputs in self._inputs(images, questions):
            found = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
            asked = inputs["input_ids"]
            if torch.equal(found[:, : asked.shape[1]], asked):  # an encoder-decoder does not repeat the question
                found = found[:, asked.shape[1] :]
            texts += self.processor.batch_decode(found, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def first_logits(self, images: UInt8[Tensor, "batch 3 h w"], questions: Sequence[str]) -> Tensor:
        """The logits of the answer's first token."""
        parts = []
        for inputs in self._inputs(images, questions):
            found = self.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            parts.append(found.logits[0].float().cpu())
        return torch.cat(parts)

    def _inputs(self, images: Tensor, questions: Sequence[str]) -> Iterator[Any]:
        """What the model is given, `chunk` pictures at a time."""
        require_one_each(images, questions)
        pictures = [Image.fromarray(picture) for picture in images.permute(0, 2, 3, 1).cpu().numpy()]
        for start in range(0, len(pictures), self.chunk):
            rows = slice(start, start + self.chunk)
            texts = [self._asked(question) for question in questions[rows]]
            begins = getattr(self.processor.tokenizer, "bos_token", None)
            yield self.processor(
                images=[[picture] for picture in pictures[rows]],  # of several pictures each, as some processors want
                text=texts,
                padding=True,
                return_tensors="pt",
                add_special_tokens=not (begins and texts[0].startswith(begins)),
            ).to(self.model.device, self.model.dtype)

    def _asked(self, question: str) -> str:
        if self.template or not getattr(self.processor, "chat_template", None):
            return (self.template or "{question}").replace("{question}", question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        talk = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
