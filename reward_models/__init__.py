"""Reward models: functions `(images, prompts) -> scores`, and how one is fitted on ratings.

Names are listed here and imported when asked for, so that listing them loads no torch.
"""

from hitl.core.registry import Registry

REWARDS = Registry(
    "reward",
    {
        "aesthetic": "reward_models.rewards.aesthetic:Aesthetic",
        "clip_head": "reward_models.rewards.clip_head:ClipHead",
        "clip_score": "reward_models.rewards.clip_score:ClipScore",
        "function": "reward_models.rewards.function:FunctionReward",
        "hps": "reward_models.rewards.hps:Hps",
        "http": "reward_models.rewards.http:HttpReward",
        "image_reward": "reward_models.rewards.image_reward:ImageReward",
        "jpeg_size": "reward_models.rewards.jpeg_size:JpegSize",
        "pick_score": "reward_models.rewards.pick_score:PickScore",
        "vlm_alignment": "reward_models.rewards.vlm_alignment:VlmAlignment",
        "vqa": "reward_models.rewards.vqa:Vqa",
        "weighted_sum": "reward_models.rewards.weighted_sum:WeightedSum",
    },
    group="hitl.rewards",
)
