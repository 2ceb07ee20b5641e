"""What the weights of a model of ours hash to: of a policy, or of a reward model. Needs no torch."""

import hashlib
from pathlib import Path


def sha256_of_weights(folder: Path) -> str:
    """Over all weight files in a folder, in order of their paths: a LoRA is one file, a large model several. Or of a
    file by itself.
    """
    found = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()
