"""Published rewards against their own libraries: transformers, open_clip, timm, PIL's transforms, arithmetic."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision import transforms
from transformers import AutoTokenizer, BertTokenizer, CLIPModel, CLIPProcessor

from data.pictures import read_picture
from hitl.core.errors import ConfigError, HitlError, ModelLoadError
from reward_models.bertscore import recall
from reward_models.load import load_reward
from reward_models.needs import HubFile
from reward_models.pixels import CLIP_MEAN, CLIP_STD, clip_preprocessing, prepare
from reward_models.rewards.aesthetic import Aesthetic
from reward_models.rewards.hps import Hps
from reward_models.rewards.image_reward import ImageReward
from reward_models.rewards.pick_score import PickScore
from reward_models.rewards.vlm_alignment import VlmAlignment
from reward_models.rewards.vqa import Vqa
from reward_models.weights import find_file, from_pretrained, read_tensors
from rl.pretrain.diffusion import MAX_TOKENS
from tests.fixtures import tiny_rewards

PROMPTS = ["a red circle", "two blue hearts above a dog", ""]


def pictures(height: int = 72, width: int = 96) -> torch.Tensor:
    """Smooth ones, as drawn pictures are: in noise, how a resize rounds shows most."""
    coarse = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


def as_pil(batch: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in batch.permute(0, 2, 3, 1).numpy()]


@pytest.mark.parametrize(("height", "width"), [(72, 96), (33, 32), (20, 27), (32, 32)])
def test_pixels_are_those_of_the_authors_transform(height: int, width: int):
    """ImageReward's and LAION's: the shorter side to 32, bicubic, the middle square, CLIP's mean and deviation."""
    theirs: Any = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    batch = pictures(height, width)
    expected = torch.stack([theirs(picture) for picture in as_pil(batch)])
    torch.testing.assert_close(prepare(batch, clip_preprocessing(32)), expected, atol=0.03, rtol=0)


def test_pick_score_is_the_logit_of_a_clip_model(tmp_path: Path):
    settings, folder = tiny_rewards.pick_score(tmp_path), tmp_path
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    batch = pictures()
    inputs = processor(text=PROMPTS, images=as_pil(batch), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.diagonal()
    found = PickScore.load(**settings, chunk=2)(batch, PROMPTS)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert expected.std() > 0.1  # the tolerance is for PIL's rounding, not for the score


def test_hps_is_the_cosine_of_open_clip_on_padded_pictures(tmp_path: Path):
    settings = tiny_rewards.hps(tmp_path)
    checkpoint = str(tmp_path / "HPS_v2.1_compressed.pt")
    model, _, transform = open_clip.create_model_and_transforms(
        settings["model"], checkpoint, image_resize_mode="longest"
    )
    batch = pictures()
    model.eval()
    with torch.no_grad():
        pixels = torch.stack([transform(picture) for picture in as_pil(batch)])
        image, text, _ = model(pixels, open_clip.get_tokenizer(settings["model"])(PROMPTS))
    found = Hps.load(**settings, chunk=2)(batch, PROMPTS)
    torch.testing.assert_close(found, (image * text).sum(dim=1), atol=2e-3, rtol=0)
    with pytest.raises(ConfigError, match=r"hps\.version is '3'"):
        Hps.load(**settings, version="3")
    assert load_reward("hps", settings | {"version": 2.1}) is not None  # as --set reads it


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_aesthetic_is_a_head_on_unit_norm_clip_features(tmp_path: Path, kind: str):
    name = tiny_rewards.open_clip_architecture(tmp_path, "tiny-aesthetic")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = open_clip.create_model(name).state_dict()
        torch.save(weights, tmp_path / "clip.pt")
        tiny_rewards.aesthetic_head(tmp_path / "mlp.pth", 24)
        torch.save(torch.nn.Linear(24, 1).state_dict(), tmp_path / "linear.pth")
    model, _, transform = open_clip.create_model_and_transforms(name, str(tmp_path / "clip.pt"))
    model.eval()
    batch = pictures()
    head = torch.load(tmp_path / f"{kind}.pth", weights_only=True)
    with torch.no_grad():
        x = model.encode_image(torch.stack([transform(picture) for picture in as_pil(batch)]), normalize=True)
        for prefix in (f"layers.{n}." for n in (0, 2, 4, 6, 7)) if kind == "mlp" else ("",):
            x = x @ head[f"{prefix}weight"].T + head[f"{prefix}bias"]
    settings: dict[str, Any] = {"backbone": name, "pretrained": str(tmp_path / "clip.pt"), "chunk": 2}
    found = Aesthetic.load(weights=tmp_path / f"{kind}.pth", **settings)(batch, PROMPTS)
    torch.testing.assert_close(found, x[:, 0], atol=2e-3, rtol=0)
    assert Aesthetic.load(weights=tmp_path, file=f"{kind}.pth", **settings)(batch, [""] * 3).tolist() == found.tolist()


def test_a_head_of_another_model_is_refused(tmp_path: Path):
    tiny_rewards.aesthetic_head(tmp_path / "head.pth", 768)
    name = tiny_rewards.open_clip_architecture(tmp_path, "tiny-other")
    torch.save(open_clip.create_model(name).state_dict(), tmp_path / "clip.pt")
    with pytest.raises(ModelLoadError, match=r"reads 768 features .* there are 24"):
        Aesthetic.load(weights=tmp_path / "head.pth", backbone=name, pretrained=str(tmp_path / "clip.pt"))
    torch.save({"other": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(ModelLoadError, match="no tensor 'weight'"):
        Aesthetic.load(weights=tmp_path / "head.pth", backbone=name, pretrained=str(tmp_path / "clip.pt"))


def test_image_reward_is_a_vit_and_a_bert_that_looks_at_it(tmp_path: Path):
    """The same weights in timm's ViT, transformers' BERT with its mask opened by hand, and the head's own modules."""
    settings = tiny_rewards.image_reward(tmp_path)
    vision, text, head = tiny_rewards.image_reward_parts()
    batch = pictures(48, 32)
    tokens = AutoTokenizer.from_pretrained(settings["tokenizer"])(
        PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    seen = tokens["attention_mask"][:, None, None, :].bool().expand(-1, 1, 35, -1)  # all words see all words
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        patches = vision.forward_features(prepare(batch, clip_preprocessing(32)))
        joint = text(
            input_ids=tokens["input_ids"], attention_mask=mask, encoder_hidden_states=patches, use_cache=False
        ).last_hidden_state
        expected = (head(joint[:, 0])[:, 0] - 0.16717362830052426) / 1.0333394966054072
    found = ImageReward.load(**settings, chunk=2)(batch, PROMPTS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (patches[0] - patches[1]).abs().max() > 1e-3


def test_an_image_reward_that_lacks_a_tensor_is_refused(tmp_path: Path):
    settings = tiny_rewards.image_reward(tmp_path)
    tensors = torch.load(tmp_path / "ImageReward.pt", weights_only=True)
    del tensors["blip.visual_encoder.blocks.1.norm2.bias"]
    torch.save(tensors, tmp_path / "ImageReward.pt")
    with pytest.raises(ModelLoadError, match=r"1 tensors are missing, first encoder\.layers\.1\.layer_norm2\.bias"):
        ImageReward.load(**settings)


PUBLISHED = {"1.webp": 0.5811622738838196, "2.webp": 0.2745276093482971, "3.webp": -1.4131819009780884}
PUBLISHED["4.webp"] = -2.029569625854492


@pytest.mark.skipif(
    not (HubFile("THUDM/ImageReward", "ImageReward.pt").is_here() and "HITL_IMAGE_REWARD_PICTURES" in os.environ),
    reason="needs ImageReward.pt, and assets/images of its repository named by HITL_IMAGE_REWARD_PICTURES",
)
def test_image_reward_gives_the_scores_of_its_readme():
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    reward = ImageReward.load()
    for name, expected in PUBLISHED.items():
        picture = torch.from_numpy(read_picture(Path(os.environ["HITL_IMAGE_REWARD_PICTURES"]) / name))
        assert reward(picture.permute(2, 0, 1)[None], [prompt]).item() == pytest.approx(expected, abs=0.02)


def test_bertscore_by_hand():
    """Reference: [begin], (1, 0), (0, 1), [end]. Candidate: (0.6, 0.8) and (0.8, -0.6).

    Best cosines of the two words that count: max(0.6, 0.8) = 0.8 and max(0.8, -0.6) = 0.8; then with the second
    candidate word gone 0.6 and 0.8, mean 0.7. Begin and end do not count, whatever they match.
    """
    candidate = torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    reference = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    counted = torch.tensor([False, True, True, False])
    torch.testing.assert_close(recall(candidate, reference, counted), torch.tensor(0.8))
    torch.testing.assert_close(recall(candidate[:1], reference, counted), torch.tensor(0.7))
    assert recall(candidate, reference, torch.zeros(4, dtype=torch.bool)) == 0


def test_vlm_alignment_is_one_where_the_description_says_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = {"model": str(tiny_rewards.llava(tmp_path / "llava")), "layer": 1}
    reward = VlmAlignment.load(**settings, encoder=str(tiny_rewards.bert(tmp_path / "bert")))
    said = ["the image contains a red circle", "two hearts"]
    monkeypatch.setattr(type(reward.describer), "answers", lambda *_, **__: said)
    scores = reward(pictures()[:2], ["a red circle", "a dog in a hat"])
    assert scores[0] == pytest.approx(1)
    assert scores[1] < 0.99


@pytest.mark.parametrize("build", [tiny_rewards.llava, tiny_rewards.idefics])
def test_vqa_is_the_share_of_yes_among_yes_and_no(tmp_path: Path, build: Any):
    """Against the model's own forward pass on one unpadded question at a time."""
    reward = Vqa.load(model=str(build(tmp_path)))
    model, processor = reward.asked.model, reward.asked.processor
    batch = pictures()
    for picture, prompt, score in zip(as_pil(batch), PROMPTS, reward(batch, PROMPTS), strict=True):
        text = f'<image> Does this image show "{prompt}"? Answer yes or no. answer '
        with torch.no_grad():
            logits = model(**processor(images=picture, text=text, return_tensors="pt")).logits[0, -1].softmax(dim=0)
        yes, no = (logits[processor.tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
        torch.testing.assert_close(score, yes / (yes + no), atol=1e-5, rtol=1e-4)


def test_a_model_without_a_word_for_yes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny_rewards, "WORDS", ["a", "no"])
    with pytest.raises(ModelLoadError, match="no single token for yes"):
        Vqa.load(model=str(tiny_rewards.llava(tmp_path)))


@pytest.mark.parametrize("reward", ["pick_score", "hps", "image_reward"])
def test_prompts_that_are_too_long_are_cut_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, reward: str):
    model = load_reward(reward, getattr(tiny_rewards, reward)(tmp_path))
    exact = {"hps": 16, "image_reward": 35, "pick_score": MAX_TOKENS}[reward]
    fits = " ".join(["a"] * (exact - 2))
    with caplog.at_level(logging.WARNING, logger="reward_models.prompts"):
        caplog.clear()
        model(pictures()[:1], [fits])
        assert not caplog.messages
        long = model(pictures()[:2], [f"{fits} red", "a dog"])
        model(pictures()[:1], [f"{fits} blue"])
    assert caplog.messages == [
        f"1 of 2 prompts are longer than the {exact} tokens that the reward reads; it does not see their ends."
    ]
    torch.testing.assert_close(long[:1], model(pictures()[:1], [fits]), atol=1e-5, rtol=1e-4)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, tmp_path / "head.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("head.pth", "plain.pth"):
        with pytest.raises(ModelLoadError, match="cannot be read as weights") as caught:
            read_tensors(tmp_path / name)
        assert "it could run code" in caught.value.hint
    for load in (lambda: Aesthetic.load(weights=tmp_path / "head.pth"), lambda: _hps(tmp_path)):
        with pytest.raises(ModelLoadError):
            load()
    assert not (tmp_path / "exploded").exists()


def _hps(folder: Path) -> Hps:
    return Hps.load(weights=folder / "head.pth", model=tiny_rewards.open_clip_architecture(folder, "tiny-bomb"))


@pytest.mark.parametrize("load", [Aesthetic.load, Hps.load, ImageReward.load, PickScore.load, Vqa.load])
def test_weights_that_are_not_here_are_named_with_how_to_fetch_them(load: Any):
    """Without a network, as in all tests."""
    with pytest.raises(HitlError) as caught:
        load()
    assert "hf download" in caught.value.hint


def test_files_are_found_by_themselves_or_in_a_folder(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(b"no weights")
    assert find_file(tmp_path / "a.pt", "b.pt") == find_file(tmp_path, "a.pt") == tmp_path / "a.pt"
    with pytest.raises(ModelLoadError, match=r"has no file 'b\.pt'"):
        find_file(tmp_path, "b.pt")
    with pytest.raises(ModelLoadError, match="cannot be read as weights"):
        read_tensors(tmp_path / "a.pt")
    np.save(tmp_path / "model.safetensors", np.zeros(2))
    os.rename(tmp_path / "model.safetensors.npy", tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="cannot be read as weights"):
        read_tensors(tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        from_pretrained(BertTokenizer.from_pretrained, tmp_path / "nothing")
