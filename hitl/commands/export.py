"""`hitl export`: ratings as a data set in a format that others load, as one table, or a round's policy as a LoRA."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError
from safetensors.numpy import load, save

from data.at_work import Files
from data.copies import Copy, note_copy
from data.exports import FORMATS, load_format
from data.exports.folder import require_free, write_folder
from data.exports.hub import push
from data.exports.source import Options, Source, Ties
from data.exports.tables import ENDINGS, comparisons, write_table
from data.store import Store
from data.streams import Selection
from data.workspace import Workspace, disk_errors, fsync_dir, write_atomically
from hitl.commands.reading import open_for_reading
from hitl.config import load_config
from hitl.core.errors import ConfigError, NotEnoughRatings, UnknownName, WorkspaceError
from rl.kohya import to_kohya

POLICY = "kohya"
IMAGE_FORMATS = ("png", "jpeg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says; empty is the format's own way."""

    format: str = ""
    round: int | None = None
    raters: tuple[str, ...] = ()
    """Names, ids or pseudonyms; none are all."""
    ties: str = ""
    split: str = ""
    names: bool = False
    license: str = ""
    image_format: str = ""
    push_to_hub: str = ""


def run(out: Path, asked: Asked, workspace: Path | None) -> None:
    ending = out.suffix.lstrip(".")
    chosen = asked.format or (POLICY if ending == "safetensors" else ending)
    if chosen != POLICY and chosen not in FORMATS:
        what = f"The format {chosen!r} is not known" if chosen else f"In which format {out} is to be is not known"
        raise ConfigError(f"{what}.", hint=f"Use --format with one of: {', '.join(FORMATS)}, {POLICY}.")
    folder = Workspace.find(workspace)
    if chosen == POLICY:
        _require_only_a_round(asked)
        export_policy(folder, asked.round or 0, out)
        return
    options = _options(folder, chosen, asked)
    require_free(out)
    made_at = datetime.now(UTC)  # before the store is copied: an erasure that begins later does not reach the copy
    with Files(folder).in_use(), open_for_reading(folder) as store:
        selection = Selection(
            round=asked.round,
            rater_ids=_rater_ids(store, asked.raters) if asked.raters else None,
            has_names=asked.names,
        )
        with _progress() as report:
            source = Source(store, folder, selection, options, report=report)
            if chosen in ENDINGS and ending == chosen:
                _require_no_pushing(asked)
                said = _export_table(source, out)
            else:
                said = _export_folder(source, out)
        _note(source, out, made_at)
    print(said)
    if asked.push_to_hub:
        print(f"Sent to {push(out, asked.push_to_hub)}, which is private until you change that there.")


def _options(folder: Workspace, chosen: str, asked: Asked) -> Options:
    found = load_format(chosen)
    ties: Ties | None = next((known for known in found.TIES if known == (asked.ties or found.TIES[0])), None)
    if ties is None:
        raise ConfigError(
            f"--ties is {asked.ties!r}, which {chosen} has no way to say.", hint=f"Use one of: {', '.join(found.TIES)}."
        )
    if asked.split not in ("", "by-prompt"):
        raise ConfigError(f"--split is {asked.split!r}.", hint="Use by-prompt, or leave it out.")
    if asked.split and chosen in ENDINGS:
        raise ConfigError(
            f"{chosen} has one table of comparisons, whatever --split says.",
            hint="Its column `split` says which is which.",
        )
    if asked.image_format not in ("", *IMAGE_FORMATS) or (asked.image_format == "jpeg" and chosen in ENDINGS):
        raise ConfigError(
            f"--image-format is {asked.image_format!r}, and the format {chosen}.",
            hint="Use png or jpeg; parquet, csv and jsonl keep the very files.",
        )
    return Options(
        format=chosen,
        ties=ties,
        by_split=bool(asked.split),
        image_format="jpeg" if asked.image_format == "jpeg" else "png",
        license=asked.license or load_config(folder.config_path, []).export.license,
        splits=found.SPLITS,
    )


def _rater_ids(store: Store, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Raters by name, id or pseudonym.

    Raises:
        UnknownName: nobody is called so.
    """
    known: dict[str, str] = {}
    for number, rater in enumerate(store.raters(), start=1):
        known |= {
            f"rater-{number:03d}": rater.rater_id,
            rater.name.lower(): rater.rater_id,
            rater.rater_id: rater.rater_id,
        }
    for name in wanted:
        if name not in known and name.lower() not in known:
            raise UnknownName(f"There is no rater {name!r}.", hint="`hitl raters list` names them all.")
    return tuple(known.get(name) or known[name.lower()] for name in wanted)


def _require_only_a_round(asked: Asked) -> None:
    if asked != Asked(format=asked.format, round=asked.round):
        raise ConfigError("A policy has no ratings in it.", hint="Of the options, kohya takes --round alone.")


def _require_no_pushing(asked: Asked) -> None:
    if asked.push_to_hub:
        raise ConfigError(
            "The hub takes a folder, with a card that says what is in it.", hint="Name a folder, with --format."
        )


def _export_folder(source: Source, out: Path) -> str:
    source.find_lost_images()
    source.count()
    written = write_folder(source, out)
    counts = ", ".join(f"{count} in {name}" for name, count in written.rows.items())
    left_out = source.tally.lost + sum(source.left_out.values())
    return f"{out}: {counts}" + (f"; {left_out} left out, README.md says why" if left_out else "")


def _export_table(source: Source, out: Path) -> str:
    """Comparisons alone, with the images' files by their paths in the workspace."""
    root, images = source.workspace.root, source.workspace.images_dir.name

    def path_of(image_id: str) -> str:
        return f"{images}/{image_id[:2]}/{image_id}.png"  # `Workspace.image_path` takes 8 µs, of a million rows 16 s

    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as fresh:
            file = Path(fresh) / out.name
            rows = write_table(comparisons(source, path_of), file)
            if not rows:
                raise NotEnoughRatings("There are no comparisons to export.", hint=f"Rate first: hitl round -w {root}")
            require_free(out)
            os.rename(file, out)
        fsync_dir(out.parent)
    return f"{rows} comparisons in {out}"


def _note(source: Source, out: Path, made_at: datetime) -> None:
    note_copy(
        source.workspace,
        Copy(
            kind="export",
            path=out.absolute(),
            made_at=made_at,
            seq=source.store.position,
            has_names=source.selection.has_names,
        ),
    )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Rows read so far, on a terminal's stderr."""
    console = Console(stderr=True)
    columns = TextColumn("{task.completed:.0f} rows read"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        row = bars.add_task("", total=None)
        yield lambda rows: bars.advance(row, rows)


def export_policy(folder: Workspace, number: int, out: Path) -> None:
    """A policy is a file of a finished stage: no store is opened, and no hub is asked.

    Raises:
        WorkspaceError: no round is trained, or its file is missing or damaged.
        UnknownName: that round is not trained.
        ConfigError: the file's name or the kind of model is not for this format.
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a folder.", hint="Name the file to write in it.")
    if out.suffix != ".safetensors":
        raise ConfigError(
            f"{out} does not end in .safetensors, by which other programs know what it is.",
            hint=f"Write {out.with_suffix('.safetensors')} instead.",
        )
    trained = [int(path.name) for path in (folder.root / "rounds").glob("[0-9]*") if path.name.isdigit()]
    trained = sorted(found for found in trained if folder.is_done(found, "train"))
    if not trained:
        raise WorkspaceError(f"No round in {folder.root} is trained yet.", hint=f"Run one: hitl round -w {folder.root}")
    number = number or trained[-1]
    if number not in trained:
        raise UnknownName(
            f"Round {number} is not trained.", hint=f"Trained are the rounds {', '.join(map(str, trained))}."
        )
    policy = folder.policy_dir(number)
    if whole := next(policy.glob("*/config.json"), None):
        raise ConfigError(
            f"The policy of round {number} is a whole {whole.parent.name} (train.weights = full), and kohya's is a "
            "layout for LoRAs.",
            hint=f"diffusers loads {whole.parent}, as {policy / 'README.md'} shows; only train.weights = lora, from a "
            "workspace's first round on, makes a LoRA.",
        )
    file = policy / "pytorch_lora_weights.safetensors"
    try:
        weights = load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise WorkspaceError(
            f"The policy of round {number} cannot be read: {error}.",
            hint=f"Put {file} back from a backup, or export another round with --round.",
        ) from error
    if any(name.startswith("transformer.") for name in weights):
        raise ConfigError(
            f"The policy of round {number} is of a transformer, such as Stable Diffusion 3's, for which there is no "
            "kohya layout that all programs read.",
            hint=f"ComfyUI and diffusers load {file} as it is.",
        )
    write_atomically(out, save(to_kohya(weights)))
    print(f"The policy of round {number} in {out}")
