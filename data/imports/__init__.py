"""Preference data of other programs, and our own exports, into the store: one file a format."""

FORMATS: dict[str, tuple[str, str]] = {
    "parquet": ("an export of hitl with all there is to a rating, or one file of comparisons", "complete"),
    "csv": ("the same as CSV", "complete"),
    "jsonl": ("the same as JSON lines", "complete"),
    "pickapic": ("Pick-a-Pic: Parquet files, or a folder of save_to_disk", "pickapic"),
    "diffusion-dpo": ("the columns of Pick-a-Pic that Diffusion-DPO reads, without raters", "diffusion_dpo"),
    "imagereward": ("ImageReward's train.json, valid.json, test.json with their images", "imagereward"),
    "imagerewarddb": ("ImageRewardDB: rows, groups or pairs, as Parquet or unpacked", "imagerewarddb"),
    "hpdv2": ("HPDv2's train.json and test.json with their images", "hpdv2"),
    "trl": ("columns prompt, chosen, rejected with images", "trl"),
    "imagefolder": ("a folder whose metadata names chosen and rejected files", "imagefolder"),
    "webdataset": ("tar shards of images, each pair with a .json", "webdataset"),
    "kohya-pairs": ("paired folders w/ and l/ of one file name, with .caption files", "kohya_pairs"),
    "d3po": ("D3PO's JSON lists of 1, 0 and -1 with their images", "d3po"),
    "arena": ("votes of an arena, with columns that hold the images", "arena"),
    "folder": ("pictures and a CSV of their prompts, without ratings", "folder"),
    "label-studio": ("Label Studio's JSON export of a Pairwise, Ranker or Rating project", "label_studio"),
    "argilla": ("Argilla's records, as JSON or as a Hugging Face dataset", "argilla"),
}
"""Name of a format -> one line of help, and the module here that reads it: `read(files)` yields what is in it."""
