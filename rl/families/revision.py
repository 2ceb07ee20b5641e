"""Which version of a base model was loaded: its commit on the hub, or a hash of its files.

A name does not say: what a hub id leads to may be changed by its owner, and a folder by anybody.
"""

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from data.workspace import sha256_of_file
from rl.families.loading import STARTER_FOLDER


def base_model(name: str, config: str = "") -> dict[str, str]:
    """The model's name and revision; of a single file with a `config` of its own, those of that too."""
    found = {"model": name, "revision": revision_of(name)}
    if config:
        found |= {"model_config": config, "model_config_revision": revision_of(config)}
    return found


def revision_of(name: str) -> str:
    """`commit:` and the commit of a hub id that was loaded, `sha256:` and the hash of a folder or file; else empty.

    To be asked after it was loaded: the hub's cache then holds the commit that was.
    """
    path = STARTER_FOLDER if name == "starter" else Path(name)
    if path.is_file():
        return f"sha256:{sha256_of_file(path)}"
    if path.is_dir():
        return f"sha256:{_sha256_of_folder(path)}"
    cached = try_to_load_from_cache(name, "model_index.json")
    return f"commit:{Path(cached).parent.name}" if isinstance(cached, str) else ""


def _sha256_of_folder(folder: Path) -> str:
    """Over the names and hashes of its files, but for hidden ones, such as a version control's: as `sha256sum` says
    them, in order of their names."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    lines = [
        f"{sha256_of_file(files[name])}  {name.as_posix()}\n"
        for name in sorted(files, key=lambda name: name.as_posix())
        if not any(part.startswith(".") for part in name.parts)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
