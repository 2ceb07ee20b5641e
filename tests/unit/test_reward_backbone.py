"""The backbone against open_clip itself: preprocessing, features, gradients, and names that do not exist."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional

from hitl.core.errors import ConfigError, ModelLoadError, WorkspaceError
from reward_models.backbone import Backbone, joint_features
from reward_models.features import FeatureCache
from reward_models.pretrain import ClipPretrainConfig, pretrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    pretrain(folder, ClipPretrainConfig(steps=2, batch_size=16, evaluate_scenes=2))
    return folder / "clip"


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone.load(str(folder))


def pictures(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    """Smooth random pictures: neighbouring pixels agree, as in a photograph."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return (functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("size", [(64, 64), (100, 160), (161, 90), (48, 48)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_preprocessing_is_open_clips(folder, backbone, size, resize_mode):
    images = pictures(2, *size)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", image_resize_mode=resize_mode)
    ours = Backbone(
        name="x",
        pretrained=None,
        model=backbone.model,
        tokenizer=None,
        architecture={},
        preprocessing=backbone.preprocessing | {"resize_mode": resize_mode},
    ).preprocess(images)
    theirs = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    # PIL rounds to whole levels after each of two passes: 2 of 255, divided by the standard deviation
    torch.testing.assert_close(ours, theirs, atol=2 / 255 / 0.3, rtol=0)


def test_features_are_open_clips(folder, backbone):
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    images, prompts = pictures(3), ["a red circle", "two blue hearts", "a red circle"]
    image = model.encode_image((images.float() / 255 - 0.5) / 0.3, normalize=True)
    text = model.encode_text(tokenizer(prompts), normalize=True)
    features = backbone.features(images, prompts)
    torch.testing.assert_close(features[:, 0], functional.cosine_similarity(image, text))
    torch.testing.assert_close(features[:, 1 : 1 + backbone.width], image)
    torch.testing.assert_close(features[:, 1 + backbone.width :], image * text)


def test_joint_features_by_hand():
    features = joint_features(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(features, torch.tensor([[0.6, 0.6, 0.8, 0.6, 0.0]]))


def test_every_pixel_gets_a_gradient_that_finite_differences_confirm(backbone):
    images = (pictures(1).float() / 255).requires_grad_(True)
    score = backbone.features(images, ["a red circle"])[0, 0]
    (gradient,) = torch.autograd.grad(score, images)
    assert (gradient != 0).float().mean() > 0.9
    direction = gradient / gradient.norm()
    with torch.no_grad():
        step = 1e-2
        higher, lower = (
            backbone.features((images + sign * step * direction).detach(), ["a red circle"])[0, 0] for sign in (1, -1)
        )
    assert ((higher - lower) / (2 * step)).item() == pytest.approx(gradient.norm().item(), rel=0.05)


def test_the_chunk_does_not_change_the_features(folder, backbone):
    one_by_one = Backbone.load(str(folder), chunk=1)
    images = pictures(5)
    torch.testing.assert_close(one_by_one.image_features(images), backbone.image_features(images))


def test_the_fingerprint_tells_weights_apart(folder, backbone):
    again = Backbone.load(str(folder))
    assert again.fingerprint == backbone.fingerprint
    changed = Backbone.load(str(folder))
    with torch.no_grad():
        changed.model.logit_scale += 1
    assert changed.fingerprint != backbone.fingerprint


@pytest.mark.parametrize("change", ["activation", "heads", "tokenizer"])
def test_the_fingerprint_tells_equal_weights_in_another_model_apart(folder, backbone, tmp_path, change):
    shutil.copytree(folder, tmp_path / "clip")
    path = tmp_path / "clip" / "open_clip_config.json"
    config = json.loads(path.read_text())
    if change == "activation":
        config["model_cfg"]["quick_gelu"] = not config["model_cfg"].get("quick_gelu", False)
    elif change == "heads":
        config["model_cfg"]["text_cfg"]["heads"] *= 2
    path.write_text(json.dumps(config))
    other = Backbone.load(str(tmp_path / "clip"))
    if change == "tokenizer":
        other = dataclasses.replace(other, tokenizer=lambda texts: backbone.tokenizer([text[::-1] for text in texts]))
    else:
        assert not torch.equal(other.text_features(["a star"]), backbone.text_features(["a star"]))
    assert other.fingerprint != backbone.fingerprint


@pytest.mark.parametrize(("tag", "is_quick"), [("openai", True), ("laion2b_s32b_b82k", False)])
def test_weights_of_the_quick_gelu_get_it(monkeypatch, tag, is_quick):
    """The weights themselves are 1.7 GB: what open_clip is asked for is looked at instead, in place of loading them."""
    asked: dict[str, object] = {}

    def stop(*names: object, **settings: object) -> None:
        asked.update(settings)
        raise OSError("no weights here")

    monkeypatch.setattr(open_clip, "create_model", stop)
    with pytest.raises(ModelLoadError, match="no weights here"):
        Backbone.load("ViT-L-14", tag)
    assert asked["force_quick_gelu"] is is_quick


def test_cached_features_are_the_backbones_for_pictures_of_any_size(backbone, tmp_path):
    images = {"a": pictures(1)[0], "b": pictures(1, 80, 64)[0], "c": pictures(2)[1]}
    cache = FeatureCache(tmp_path, backbone)
    rows = cache.images(["c", "a", "b", "a"], lambda name: images[name].permute(1, 2, 0).numpy())
    expected = torch.cat([backbone.image_features(images[name][None]) for name in ("c", "a", "b", "a")])
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(cache.texts(["x", "a star"]), backbone.text_features(["x", "a star"]))


def test_one_prompt_for_each_image(backbone):
    with pytest.raises(ConfigError, match="3 images came with 1 prompts"):
        backbone.features(pictures(3), ["a red circle"])


@pytest.mark.parametrize("prompt", ["", "a" * 3000, "ünïcode 猫 🎈", "a red\ncircle", "word " * 200])
def test_odd_prompts_have_finite_features(backbone, prompt):
    features = backbone.text_features([prompt, "a red circle"])
    assert torch.isfinite(features).all()
    torch.testing.assert_close(features[1:], backbone.text_features(["a red circle"]))


def test_names_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ConfigError, match="no open_clip model or folder called"):
        Backbone.load("ViT-Q-99")
    with pytest.raises(ConfigError, match="no weights called None"):
        Backbone.load("ViT-B-32")
    with pytest.raises(ModelLoadError, match=r"no open_clip_config\.json"):
        Backbone.load(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        Backbone.load(str(tmp_path))
    with pytest.raises(ConfigError, match="brings its own weights"):
        Backbone.load(str(tmp_path), "openai")


def test_a_folder_without_weights_is_refused_instead_of_used_at_random(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(ModelLoadError):
        Backbone.load(str(tmp_path))


def test_images_are_numpy_uint8_in_the_cache(backbone, tmp_path):
    with pytest.raises(WorkspaceError, match="uint8"):
        FeatureCache(tmp_path, backbone).images(["a"], lambda name: np.zeros((64, 64), np.float32))
