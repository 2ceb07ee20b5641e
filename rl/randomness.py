"""Random generators named by what they are for: the same place in a run always draws the same numbers."""

import hashlib

import torch


def derive_seed(*path: object) -> int:
    """A 63-bit seed from (seed, round, epoch, ...), by SHA-256: stable between processes, unlike `hash`."""
    digest = hashlib.sha256("/".join(map(str, path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*path: object) -> torch.Generator:
    """A CPU generator for that place. Noise is drawn on the CPU and moved, so that a GPU run repeats a CPU one."""
    return torch.Generator().manual_seed(derive_seed(*path))
