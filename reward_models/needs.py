"""What a reward needs from outside, and whether it is on this machine already. Looks at folders, never at a network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Need(Protocol):
    """Its text says what is needed."""

    def is_here(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository on the Hugging Face hub."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}"

    def is_here(self) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repo, self.file), str)


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hugging Face hub, as `from_pretrained` loads it; or its tokenizer alone."""

    repo: str
    part: str = "model"
    """`model`, `processor` (what prepares pictures and texts) or `tokenizer`."""

    def __str__(self) -> str:
        return self.repo if self.part == "model" else f"{self.repo} ({self.part})"

    def is_here(self) -> bool:
        from huggingface_hub import try_to_load_from_cache

        # Of each kind of file one is enough: old repositories have one name of it, new ones another.
        wanted = {
            "model": (
                ("config.json",),
                (
                    "model.safetensors",
                    "model.safetensors.index.json",
                    "pytorch_model.bin",
                    "pytorch_model.bin.index.json",
                ),
            ),
            "processor": (("preprocessor_config.json", "processor_config.json"),),
            "tokenizer": (("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spm.model"),),
        }[self.part]
        return all(any(isinstance(try_to_load_from_cache(self.repo, file), str) for file in names) for names in wanted)


@dataclass(frozen=True, slots=True)
class OpenClipWeights:
    """Weights of open_clip's own list."""

    name: str
    tag: str

    def __str__(self) -> str:
        return f"open_clip {self.name}, {self.tag}"

    def is_here(self) -> bool:
        import open_clip

        known = open_clip.get_pretrained_cfg(self.name, self.tag)
        repo, _, file = known.get("hf_hub", "").rpartition("/")
        names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        url = known.get("url", "").rpartition("/")[2]
        return any(HubFile(repo, name).is_here() for name in names if repo) or bool(
            url and (Path.home() / ".cache" / "clip" / url).is_file()
        )
