"""Reinforcement learning of diffusion models. Two doors: algorithms and model families."""

from hitl.core.registry import Registry

ALGORITHMS = Registry(
    "algorithm",
    {
        "best_of_n": "rl.algorithms.best_of_n:BestOfN",
        "d3po": "rl.algorithms.dpo:D3po",
        "diffusion_dpo": "rl.algorithms.dpo:DiffusionDpo",
        "dpok": "rl.algorithms.dpok:Dpok",
        "dpok_authors": "rl.algorithms.dpok:DpokAuthors",
        "ddpo_is": "rl.algorithms.ddpo:DdpoIs",
        "ddpo_sf": "rl.algorithms.ddpo:DdpoSf",
        "draft": "rl.algorithms.draft:Draft",
        "nft": "rl.algorithms.nft:Nft",
        "refl": "rl.algorithms.draft:Refl",
        "rwr": "rl.algorithms.rwr:Rwr",
        "sft": "rl.algorithms.sft:Sft",
    },
    group="hitl.algorithms",
)

FAMILIES = Registry(
    "model family",
    {
        "sd15": "rl.families.sd15:StableDiffusion15",
        "sdxl": "rl.families.sdxl:StableDiffusionXL",
        "sd3": "rl.families.sd3:StableDiffusion3",
    },
    group="hitl.families",
)
