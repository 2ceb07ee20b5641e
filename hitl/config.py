"""RunConfig: a tree of frozen dataclasses. TOML in, commented TOML out; a string under a field is its help."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import ipaddress
import json
import math
import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_type_hints
from urllib.parse import urlsplit

import tomli_w
from pydantic import TypeAdapter, ValidationError

from data import RATING_KINDS
from data.prompt_list import Columns
from data.rating_kinds.extras import FLAGS
from data.task_policies import LEAST_EXPLORE, TASK_POLICIES
from hitl.core.errors import ConfigError
from hitl.core.registry import closest
from reward_models import REWARDS
from reward_models.config import RewardFitConfig
from rl import FAMILIES
from rl.config import SampleConfig, TrainConfig

CLIP_HEAD = "clip_head"
"""Name of the reward that a round fits on the ratings."""

GOLD = "gold"
"""Name of the guard's judge that knows what the starter's prompts ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectConfig:
    """The whole run."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: int = 0
    """Every random choice derives from this number and its place in the run."""

    def __post_init__(self) -> None:
        _at_least(0, "project", self, "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The diffusion model that is improved."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str = "starter"
    """`starter`, a folder in diffusers' format, a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5, or a
    single .safetensors file."""
    family: str = "auto"
    """`auto` asks the model; else a name in the registry of model families: sd15 (1.x and 2.x), sdxl, sd3."""
    config: str = ""
    """Of a single .safetensors file: a folder or hub id of the same kind of model, for its tokenizers and settings.
    Empty takes the kind's usual one from the hub."""
    device: str = "auto"
    """`auto` takes cuda when there is one; else cpu, cuda or cuda:N."""
    dtype: str = "float32"
    """float32, or float16 / bfloat16 for the frozen weights on a GPU. What is trained and all of the RL stay
    float32."""

    def __post_init__(self) -> None:
        _one_of(("auto", *FAMILIES.names()), "model.family", self.family)
        _one_of(("float32", "float16", "bfloat16"), "model.dtype", self.dtype)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"model.device is {self.device!r}.", hint="Use auto, cpu, cuda or cuda:N.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsConfig:
    """What the images are of."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    file: str = ""
    """A text file (one prompt per line), JSON lines with text, task and split, CSV or TSV (DrawBench, PartiPrompts), a
    JSON list, COCO's captions or a folder of caption files; relative to the workspace. `hitl prompts FILE` shows what
    is read of it. Empty: the starter's own prompts."""
    column: str = ""
    """Of a table: the column of the prompts. Empty: Prompts, prompt, caption or text."""
    task_column: str = ""
    """Of a table: the column of the task tags, which are only used to report by. Empty: task or Category."""
    split_column: str = ""
    """Of a table: the column that says train or held_out (or validation, test ...). Empty: split. Where a prompt has
    none, a third is held out, by a hash of the text."""
    limit: int = 0
    """At most so many prompts of each split, from all over the file; 0: all."""
    per_task: int = 8
    """Of the starter's prompts: how many of each task (colour, count, composition, location, bias) are trained on."""
    held_out_per_task: int = 8
    """Of the starter's prompts: how many of each task are only judged on."""

    def __post_init__(self) -> None:
        _at_least(1, "prompts", self, "per_task", "held_out_per_task")
        _at_least(0, "prompts", self, "limit")

    @property
    def columns(self) -> Columns:
        return Columns(text=self.column, task=self.task_column, split=self.split_column)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawConfig:
    """The images that people rate."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int = 10
    """DDIM steps of one image."""
    window: int = 0
    """How many of the first steps have noise, of level sample.eta; d3po learns from them."""
    images_per_prompt: int = 4
    """Images of each prompt; pairs to compare are chosen among them."""
    batch_size: int = 32
    """Images in one forward pass. Lower this first when memory runs out."""

    def __post_init__(self) -> None:
        _at_least(1, "draw", self, "steps", "batch_size")
        if self.images_per_prompt < 2:
            raise ConfigError(
                f"draw.images_per_prompt is {self.images_per_prompt}, but a comparison needs 2.", hint="Use 4."
            )
        if not 0 <= self.window <= self.steps:
            raise ConfigError(
                f"draw.window is {self.window}, but draw.steps is {self.steps}.",
                hint="Set draw.window between 0 and draw.steps.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RateConfig:
    """How people rate."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: str = "pairwise"
    """Name in the registry of rating kinds."""
    images: int = 0
    """Images of one task; 0: as many as the kind is made for."""
    axes: tuple[str, ...] = ("overall",)
    """What the kind `grades` asks about each image. The reward model learns from `overall`."""
    flags: tuple[str, ...] = FLAGS
    """What a rater may mark an image with."""
    ratings_per_round: int = 96
    """Tasks of one round. A person rates about 20 in a minute."""
    overlap: int = 1
    """How many raters see each task."""
    lease_s: int = 300
    """Seconds for which a task that a rater has been shown is kept for them."""
    policy: str = "random"
    """Which pairs are asked about. `random`: any, spread over the prompts. `uncertain`: from the second round on, those
    of whose answer the last fit is least sure, beside a share of random ones."""
    explore: float = 0.3
    """Of `uncertain`: the share of the tasks that is random all the same, so that what is measured on the tasks holds
    for all pairs. 0.3 to 1."""
    force_explore: bool = False
    """Take a rate.explore below 0.3: few answers then stand for very many, and no estimate over all pairs is steady."""
    near_duplicate: float = 0.98
    """Of `uncertain`: images of one prompt whose features' cosine is no less than this are one image to it. 1 or less;
    the random share is of all pairs."""
    repeats: float = 0.06
    """Share of the tasks that their rater is shown again, ten or more screens later and in another order: 0 to 0.2.
    They come on top of ratings_per_round, are not learned from, and say how consistent a rater is."""
    gold: float = 0.03
    """Gold tasks beside each task: one of the images is of a prompt that has no word in common with the one that is
    shown; 0 to 0.2. On top of ratings_per_round too, and not learned from: they say whether a rater looks."""
    blind: float = 0.1
    """Blind comparisons of the last round's policy beside each task: what it drew for a held-out prompt, and what the
    reference or the policy before it drew from the same seed; 0 to 0.5. On top of ratings_per_round, and not learned
    from: they say whether people see a difference."""
    display_copies: bool = True
    """Where an image's file is larger than 250 KB, show the images of its task as WebP copies of the same size in
    pixels, so that the page need not wait for them; zooming fetches the originals. Each rating says which was shown."""

    practice: int = 6
    """Practice tasks with feedback before a rater's first rating, which may be skipped; 0: none. Not ratings."""
    break_every: int = 50
    """Answers after which a rater is offered a break, which may be skipped; 0: never."""
    guide: str = ""
    """What raters are told before they practise, and by ? later: a text, or a .md or .txt file of the workspace. Lines
    that begin with # are headings and with - lists; **strong**. Empty: the project's own guide, in the rater's
    language."""
    consent: str = ""
    """What raters agree to before their first rating: a text or a file, as for rate.guide. When it is changed they are
    asked again. Empty: the project's own, in the rater's language."""

    def __post_init__(self) -> None:
        _at_least(1, "rate", self, "ratings_per_round", "overlap", "lease_s")
        _at_least(0, "rate", self, "practice", "break_every")
        _one_of(RATING_KINDS.names(), "rate.kind", self.kind)
        allowed = RATING_KINDS.load(self.kind).images
        if self.images and self.images not in allowed:
            raise ConfigError(
                f"rate.images is {self.images}, but {self.kind} shows {allowed[0]} to {allowed[-1]}.",
                hint=f"Set rate.images = 0 to show {allowed[0]}.",
            )
        if "overall" not in self.axes or len(set(self.axes)) < len(self.axes):
            raise ConfigError(
                f"rate.axes is {list(self.axes)}, but the reward model learns from `overall`, asked once.",
                hint='Use axes = ["overall", "alignment", "fidelity"].',
            )
        _one_of(TASK_POLICIES, "rate.policy", self.policy)
        _between(0, 0.2, "rate", self, "repeats", "gold")
        _between(0, 0.5, "rate", self, "blind")
        _between(-1, 1, "rate", self, "near_duplicate")
        if not 0 < self.explore <= 1 or (self.explore < LEAST_EXPLORE and not self.force_explore):
            raise ConfigError(
                f"rate.explore is {self.explore}, but must be {LEAST_EXPLORE} to 1.",
                hint="Use 0.3. Below it, and above 0, it is taken only with rate.force_explore = true.",
            )

    @property
    def images_per_task(self) -> int:
        return self.images or RATING_KINDS.load(self.kind).images[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConfig:
    """What simulated raters like: utility = correctness of the picture + taste_weight x taste."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    taste_weight: float = 1.0
    """How much large shapes on light backgrounds count, beside a correct picture's 1."""
    careless: int = 0
    """How many of the simulated raters answer at random."""
    adversarial: int = 0
    """How many of the simulated raters choose what they like less."""

    def __post_init__(self) -> None:
        _at_least(0, "simulated", self, "careless", "adversarial")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """What ends a round's training early, and which of its policies is kept (docs/guards.md)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    on: bool = True
    """Look at pictures of held-out prompts while training, stop when independent judges like them less than before
    beyond noise, and keep the best policy by those judges. Off: train all epochs and keep the last."""
    every: int = 5
    """Epochs between two looks; the last epoch has one, too."""
    prompts: int = 32
    """Held-out prompts of a look, of all tasks evenly. With fewer than 5 nothing is concluded."""
    images_per_prompt: int = 2
    """Of each prompt, from seeds that evaluation does not use. Diversity needs 2."""
    judges: tuple[str, ...] = ()
    """Who judges a look: names of rewards that training does not climb, or `gold`: on the starter's prompts the
    verifier's score plus simulated.taste_weight times the taste. Of several the mean counts. Empty: `gold` where all
    prompts are of the starter's world, else clip_score with the backbone of [fit]."""
    min_diversity: float = 0.5
    """Stop when pictures of one prompt differ clearly less than this share of what the reference's do; 0: never."""
    kl_budget: float = 0.0
    """Stop when a look finds the policy further than this from the reference, in nats over the trained steps; 0: not
    measured, which spares a quarter of a look."""
    on_stop: str = "end"
    """After a round whose training was stopped, and where blind votes judge the last policy clearly worse than the
    reference or the one before: `end` goes no further by itself, `go_on` does."""

    def __post_init__(self) -> None:
        _at_least(1, "guard", self, "every", "prompts", "images_per_prompt")
        _at_least(0, "guard", self, "kl_budget")
        _between(0, 1, "guard", self, "min_diversity")
        _one_of(("end", "go_on"), "guard.on_stop", self.on_stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """How a round is judged."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int = 10
    """DDIM steps of one image, without noise in the steps."""
    images_per_prompt: int = 4
    """Images of each prompt and model, from the same seeds for every model."""
    images_per_trained_prompt: int = 2
    """The same for trained-on prompts and the policies: these prove little where there are held-out ones. The reference
    has images_per_prompt."""
    best_of: int = 4
    """The baseline to beat: the reference's best of so many images, chosen by the learned reward."""
    rewards: tuple[str, ...] = ("clip_score", "jpeg_size")
    """Rewards that judge beside the learned one, by name, such as pick_score, image_reward and aesthetic for Stable
    Diffusion. Two or more that nothing is trained on. clip_score is by fit.backbone, unless its settings name
    another."""

    def __post_init__(self) -> None:
        _at_least(1, "evaluate", self, "steps", "images_per_prompt", "images_per_trained_prompt", "best_of")
        if CLIP_HEAD in self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise ConfigError(
                f"evaluate.rewards is {list(self.rewards)}.",
                hint="Name each reward once, and not clip_head: the learned reward is always among the judges.",
            )
        if self.best_of > self.images_per_prompt:
            raise ConfigError(
                f"evaluate.best_of is {self.best_of}, but there are {self.images_per_prompt} images of each prompt.",
                hint=f"Set evaluate.images_per_prompt to {self.best_of}, or evaluate.best_of lower.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the rating app is served."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    host: str = "127.0.0.1"
    """Address to listen on. Other machines can reach the app only when this is changed."""
    port: int = 7860
    """Port of the app; 0 takes any free one."""
    open_join: bool = True
    """On this machine alone, and while nobody has an account: whoever gives a name may rate. Elsewhere it takes a
    password or an invite (`hitl raters`), whatever this says."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks of the reverse proxies before the app, such as ["127.0.0.1"]. Only theirs are the
    X-Forwarded-For, -Proto and -Host that are believed."""
    public_url: str = ""
    """Where people reach the app when a proxy stands before it, such as https://lab.example/rate."""
    root_path: str = ""
    """The path of public_url, such as /rate, when there is one."""

    def __post_init__(self) -> None:
        for proxy in self.proxies:
            _check_network(proxy)
        _check_public_url(self.public_url, self.root_path)

    @property
    def is_local(self) -> bool:
        """Whether people on other machines cannot reach the app, as far as these settings tell."""
        return _is_loopback(self.host) and not self.proxies and not self.public_url


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is said of ratings that leave the workspace."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    license: str = ""
    """Under which licence an export may be used, by its short name such as cc-by-4.0; empty is not stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The configuration of a workspace."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    project: ProjectConfig = field(default_factory=ProjectConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)
    fit: RewardFitConfig = field(default_factory=RewardFitConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    algorithm: dict[str, float] = field(default_factory=dict)
    """Settings of train.algorithm itself; its file under rl/algorithms/ lists them."""
    reward: dict[str, float] = field(default_factory=lambda: {CLIP_HEAD: 1.0})
    """What a round trains on: the weight of each reward (`hitl rewards` lists them). clip_head is the one fitted on
    the ratings: 1.0 where it is not named, and 0 leaves it out. Each other is divided by its standard deviation over
    the round's drawn images."""
    reward_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of these rewards, a table each, such as [reward_settings.jpeg_size] with quality = 80."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    @property
    def sha256(self) -> str:
        """Hash of all settings that can change a result (all but where the app is served, and what exports say)."""
        settings = dataclasses.asdict(self)
        del settings["server"], settings["export"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_config(path: Path, settings: list[str]) -> RunConfig:
    """The configuration in a TOML file (defaults where there is none), changed by `section.key=value` settings.

    A prompts file that a setting names is looked for in the current folder first, then in the workspace.

    Raises:
        ConfigError: the file is not TOML, or a name or value is not known.
    """
    tree: dict[str, Any] = {}
    if path.exists():
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path.name} is not valid TOML: {error}.", hint="Mend that line, or delete the file."
            ) from error
    for setting in settings:
        _apply(tree, setting)
    return parse_config(tree)


def parse_config(tree: dict[str, Any]) -> RunConfig:
    """A checked configuration from nested dicts.

    Raises:
        ConfigError: with the dotted name of the first wrong setting.
    """
    if isinstance(tree.get("reward"), dict):  # to name another reward is not to leave out the fitted one
        tree = tree | {"reward": {CLIP_HEAD: 1.0} | tree["reward"]}
    try:
        config = TypeAdapter(RunConfig).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(own := first.get("ctx", {}).get("error"), ConfigError):
            raise own from error
        dotted = ".".join(str(part) for part in first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            raise ConfigError(f"There is no setting {dotted!r}.", hint=closest(dotted, _known_names())) from error
        raise ConfigError(
            f"{dotted} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}.",
            hint=f"Mend it in hitl.toml, or with --set {dotted}=VALUE.",
        ) from error
    _require_known_rewards(config)
    _require_independent_judges(config)
    if config.draw.images_per_prompt < config.rate.images_per_task:
        raise ConfigError(
            f"draw.images_per_prompt is {config.draw.images_per_prompt}, but rate.kind = {config.rate.kind!r} shows "
            f"{config.rate.images_per_task} images of a prompt.",
            hint=f"Set draw.images_per_prompt = {config.rate.images_per_task} or more, or rate.images lower.",
        )
    return config


def to_toml(config: RunConfig) -> str:
    """The whole configuration as TOML, every setting under its help."""
    blocks = []
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if not dataclasses.is_dataclass(value):
            help_lines = [f"# {line}" for line in textwrap.wrap(_help(RunConfig)[section.name], 110)]
            entries = tomli_w.dumps({section.name: value}).removeprefix(f"[{section.name}]\n")
            blocks.append("\n".join([f"[{section.name}]", *help_lines, entries]))
            continue
        lines = [f"# {(type(value).__doc__ or '').strip().splitlines()[0]}", f"[{section.name}]"]
        for entry in dataclasses.fields(value):
            lines += [f"# {line}" for line in textwrap.wrap(_help(type(value)).get(entry.name, ""), 110)]
            lines.append(tomli_w.dumps({entry.name: getattr(value, entry.name)}).strip())
        blocks.append("\n".join(lines) + "\n")
    return "# Settings of this hitl workspace. A round keeps a copy of what it ran with.\n\n" + "\n".join(blocks)


def _at_least(least: int, section: str, settings: Any, *names: str) -> None:
    """Raise a ConfigError for the first of the settings that is smaller."""
    for name in names:
        if getattr(settings, name) < least:
            raise ConfigError(
                f"{section}.{name} is {getattr(settings, name)}, but must be {least} or more.",
                hint=f"Mend it in hitl.toml, or with --set {section}.{name}=VALUE.",
            )


def _between(least: float, most: float, section: str, settings: Any, *names: str) -> None:
    """Raise a ConfigError for the first of the settings that is smaller or larger."""
    for name in names:
        if not least <= getattr(settings, name) <= most:
            raise ConfigError(
                f"{section}.{name} is {getattr(settings, name)}, but must be {least:g} to {most:g}.",
                hint=f"Mend it in hitl.toml, or with --set {section}.{name}=VALUE.",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_network(proxy: str) -> None:
    try:
        ipaddress.ip_network(proxy)
    except ValueError as error:
        raise ConfigError(
            f"server.proxies has {proxy!r}: {error}.", hint='Use addresses or networks: ["127.0.0.1", "10.0.0.0/24"].'
        ) from error


def _check_public_url(url: str, root_path: str) -> None:
    if root_path and not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", root_path):
        raise ConfigError(
            f"server.root_path is {root_path!r}.", hint="Use a path such as /rate, without a / at its end."
        )
    try:
        parts = urlsplit(url)
        is_address = not url or (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        is_address, parts = False, urlsplit("")
    if not is_address or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(f"server.public_url is {url!r}.", hint="Use an address such as https://lab.example/rate.")
    path = parts.path.rstrip("/")
    if url and path != root_path:
        raise ConfigError(
            f"server.public_url has the path {path or '/'!r}, but server.root_path is {root_path!r}.",
            hint=f"Set server.root_path to {path!r}.",
        )


def _require_known_rewards(config: RunConfig) -> None:
    """Raise a ConfigError for a reward that the registry does not have, or for weights that are nothing to train on."""
    known = REWARDS.names()
    named = (
        ("reward", config.reward),
        ("reward_settings", config.reward_settings),
        ("evaluate", config.evaluate.rewards),
    )
    for section, names in named:
        for name in names:
            if name not in known:
                raise ConfigError(f"There is no reward {name!r} for [{section}].", hint=closest(name, known))
    if CLIP_HEAD in config.reward_settings:
        raise ConfigError(
            f"[reward_settings.{CLIP_HEAD}] is there, but the fitted reward has none.",
            hint="Set those of [fit] instead.",
        )
    if not all(map(math.isfinite, config.reward.values())) or not any(config.reward.values()):
        raise ConfigError(
            f"The weights of [reward] are {config.reward}.", hint="Use finite numbers, of which one is not 0."
        )


def _require_independent_judges(config: RunConfig) -> None:
    """Raise a ConfigError for a judge of the guard that nobody knows, or that training climbs."""
    known = [GOLD, *(name for name in REWARDS.names() if name != CLIP_HEAD)]
    for name in config.guard.judges:
        if name not in known:
            raise ConfigError(f"There is no judge {name!r} for guard.judges.", hint=closest(name, known))
        if config.reward.get(name):
            raise ConfigError(
                f"guard.judges has {name!r}, which training climbs: its weight in [reward] is {config.reward[name]}.",
                hint="Choose a judge that is not in [reward].",
            )


def _one_of(known: Sequence[str], name: str, value: str) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}.", hint=closest(value, list(known)))


@functools.cache  # a class is found in its file anew each time, which takes 10 ms
def _help(cls: type) -> Mapping[str, str]:
    """Field name -> the string under it in the class's source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node, following in zip(body.body, body.body[1:], strict=False):
        match node, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _known_names() -> list[str]:
    names = []
    for section, cls in get_type_hints(RunConfig).items():
        names.append(section)
        if dataclasses.is_dataclass(cls):
            names += [f"{section}.{entry.name}" for entry in dataclasses.fields(cls)]
    return names


def _apply(tree: dict[str, Any], setting: str) -> None:
    """Put one `section.key=value` into the tree, or `section.table.key=value`. What is not TOML is a string."""
    name, separator, text = setting.partition("=")
    parts = name.strip().split(".")
    if not separator or len(parts) < 2 or not all(parts):
        raise ConfigError(
            f"--set got {setting!r}, but needs section.key=value.", hint="For example: --set train.epochs=12"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = parts
    if parts == ["prompts", "file"] and Path(str(value)).exists():
        value = str(Path(str(value)).absolute())
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"There is no section {section!r}.", hint=closest(name, _known_names()))
    tree[key] = value
