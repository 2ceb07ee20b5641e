"""Reward models: functions `(images, prompts) -> scores`, and how one is fitted on ratings.

Names are listed here and imported when asked for, so that listing them loads no torch.
"""

from hitl.core.registry import Registry

REWARDS = Registry(
    "reward",
    {
        "clip_head": "reward_models.rewards.clip_head:ClipHead",
        "clip_score": "reward_models.rewards.clip_score:ClipScore",
        "jpeg_size": "reward_models.rewards.jpeg_size:JpegSize",
    },
    group="hitl.rewards",
)
