"""The command line: one Typer app, one command per module of `hitl.commands`; the only place that catches HitlError."""

import importlib
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hitl.core.errors import HitlError

app = typer.Typer(
    help="Close the human-feedback loop of an image model: draw, rate, fit a reward, train with DPOK, judge, again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "-w", "--workspace", help="The workspace. Default: $HITL_WORKSPACE, else the nearest hitl.toml upwards."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting. May be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def _run(command: str, **options: Any) -> None:
    """Import a command only when it is called: listing the commands must not load torch or a web server."""
    importlib.import_module(f"hitl.commands.{command}").run(**options)


@app.command()
def init(workspace: WorkspaceOption = None, settings: SetOption = None) -> None:
    """Make a workspace: a folder with a commented hitl.toml and an empty store."""
    _run("init", workspace=workspace, settings=settings or [])


@app.command("round")
def round_(
    n: Annotated[int, typer.Option("--n", help="How many rounds to complete, an unfinished one first.")] = 1,
    raters: Annotated[
        str, typer.Option("--raters", help="Who rates: human, or simulated[:K] for K simulated raters.")
    ] = "human",
    after: Annotated[
        str, typer.Option("--after", help="Go on after so long, even when ratings are missing: 90s, 30m, 2h.")
    ] = "",
    log_with: Annotated[
        list[str] | None,
        typer.Option("--log-with", help="Log to tensorboard, wandb or trackio too; several with commas between them."),
    ] = None,
    workspace: WorkspaceOption = None,
    settings: SetOption = None,
) -> None:
    """Run rounds: draw, rate, fit, train, evaluate, report. Can be stopped, killed and continued at any point."""
    _run(
        "round",
        count=n,
        raters=raters,
        after=after,
        log_with=log_with or [],
        workspace=workspace,
        settings=settings or [],
    )


@app.command()
def serve(workspace: WorkspaceOption = None, settings: SetOption = None) -> None:
    """Serve the rating app without running rounds: people rate what is drawn."""
    _run("serve", workspace=workspace, settings=settings or [])


@app.command()
def fit(
    snapshot: Annotated[
        Path | None,
        typer.Option("--snapshot", help="Fit on these answers (a Parquet file). Default: all ratings so far."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the reward model. Default: one under the workspace's fits/."),
    ] = None,
    workspace: WorkspaceOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a reward model on the ratings, outside any round, and say how far it can be trusted."""
    _run("fit", snapshot=snapshot, out=out, workspace=workspace, settings=settings or [], as_json=as_json)


@app.command()
def status(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Say where the rounds stand."""
    _run("status", workspace=workspace, as_json=as_json)


@app.command()
def report(
    number: Annotated[int, typer.Argument(metavar="[ROUND]", help="Which round. Default: the last judged one.")] = 0,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a round's report, of half a round too, and print where it is."""
    _run("report", number=number, workspace=workspace, as_json=as_json)


@app.command()
def evaluate(
    number: Annotated[
        int, typer.Argument(metavar="[ROUND]", help="Whose policy. Default: the last round that trained one.")
    ] = 0,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A checkpoint's folder, instead of a round's policy.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Judge on these prompts (a file). Default: the round's own.")
    ] = None,
    reward: Annotated[
        Path | None, typer.Option("--reward", help="A reward model's folder. Default: the one of that round.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the result. Default: one under evaluations/.")
    ] = None,
    workspace: WorkspaceOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a policy beside the reference and its best-of-N, outside any round: by every judge, with intervals."""
    _run(
        "evaluate",
        number=number,
        policy=policy,
        prompts=prompts,
        reward=reward,
        out=out,
        workspace=workspace,
        settings=settings or [],
        as_json=as_json,
    )


@app.command()
def agreement(
    number: Annotated[int, typer.Option("--round", help="This round. Default: all.")] = 0,
    names: Annotated[bool, typer.Option("--names", help="Raters by name. Default: numbered.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far the raters agree, how each of them rates, and which model's images they prefer."""
    _run("agreement", round=number, names=names, workspace=workspace, as_json=as_json)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The folder to write; or a file that ends in .parquet, .csv, .jsonl.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet, csv, jsonl, pickapic, diffusion-dpo, imagereward, imagerewarddb, hpdv2, trl, imagefolder, "
            "webdataset, kohya-pairs, d3po or arena; kohya is a policy (.safetensors). Default: by the file's ending.",
        ),
    ] = "",
    number: Annotated[
        int | None, typer.Option("--round", help="This round. Default: the ratings of all; the last trained policy.")
    ] = None,
    rater: Annotated[
        list[str] | None, typer.Option("--rater", help="This rater alone, by name or pseudonym. May be repeated.")
    ] = None,
    ties: Annotated[
        str, typer.Option("--ties", help="keep, drop or half. Default: what the format's trainers bear.")
    ] = "",
    split: Annotated[str, typer.Option("--split", help="by-prompt: held-out prompts go to validation and test.")] = "",
    names: Annotated[bool, typer.Option("--names", help="Raters by their names, not as rater-001.")] = False,
    license: Annotated[str, typer.Option("--license", help="Such as cc-by-4.0. Default: export.license.")] = "",
    image_format: Annotated[str, typer.Option("--image-format", help="png (the very files) or jpeg.")] = "",
    push_to_hub: Annotated[
        str,
        typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Send the folder to the Hugging Face hub, private."),
    ] = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Write ratings as a data set that others load, or a policy as a LoRA (kohya). No data set is overwritten."""
    from hitl.commands.export import Asked

    asked = Asked(
        format=format,
        round=number,
        raters=tuple(rater or ()),
        ties=ties,
        split=split,
        names=names,
        license=license,
        image_format=image_format,
        push_to_hub=push_to_hub,
    )
    _run("export", out=out, asked=asked, workspace=workspace)


@app.command()
def show(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] WHAT",
            help="An id's first letters, an image's file, a model's folder; or checkpoint 3, reward 3, image ID …",
        ),
    ],
    names: Annotated[bool, typer.Option("--names", help="Raters by their names, not by pseudonyms.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say where an image, a rating, a task, a checkpoint or a reward comes from, back to its prompts and raters."""
    _run("show", words=words, names=names, workspace=workspace, as_json=as_json)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A file, a folder, or a zip or tar file of one.")],
    format: Annotated[
        str,
        typer.Option("--format", help="pickapic, hpdv2, folder ... Default: by what is in it; the error lists them."),
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Only the files of this split: train, test ...")] = "",
    source: Annotated[
        str,
        typer.Option("--source", help="What it is called here: its raters go by `NAME 17`. Default: the format."),
    ] = "",
    tasks: Annotated[
        int, typer.Option("--tasks", help="Of pictures without ratings (folder): make so many tasks to be rated here.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken, and write nothing.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take in ratings and images of other programs, or an export. What cannot be taken is listed, the rest is in."""
    chosen = {"format": format, "split": split, "source": source, "tasks": tasks, "dry_run": dry_run}
    _run("import_", path=path, **chosen, workspace=workspace, as_json=as_json)


@app.command()
def prompts(
    path: Annotated[Path, typer.Argument(help="A file of prompts, or a folder of captions.")],
    column: Annotated[str, typer.Option("--column", help="Of a table: the column of the prompts.")] = "",
    task_column: Annotated[str, typer.Option("--task-column", help="Of a table: the column of the task tags.")] = "",
    split_column: Annotated[str, typer.Option("--split-column", help="Of a table: the column of the splits.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="At most so many of each split. Default: all.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what would be read of a file of prompts: how many, of which tasks and splits, and what cannot be read."""
    chosen = {"column": column, "task_column": task_column, "split_column": split_column, "limit": limit}
    _run("prompts", path=path, **chosen, as_json=as_json)


@app.command()
def doctor(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Check versions, devices, disk, the store's lock and what the model needs."""
    _run("doctor", workspace=workspace, as_json=as_json)


@app.command()
def rewards(as_json: JsonOption = False) -> None:
    """List all rewards: what each is, what it needs, and whether that is on this machine."""
    _run("rewards", as_json=as_json)


raters = typer.Typer(no_args_is_help=True, help="Say who may rate, see the board, and let others in.")
app.add_typer(raters, name="raters")

RaterArgument = Annotated[str, typer.Argument(metavar="NAME", help="The rater's name, or their id.")]
DaysOption = Annotated[float, typer.Option("--days", help="For how long an invite is open.")]
_ROLE_HELP = "rater, researcher (sees the board too) or admin (lets others in too)."


@raters.command("add")
def raters_add(
    name: Annotated[str, typer.Argument(help="A name that nobody has yet.")],
    role: Annotated[str, typer.Option("--role", help=_ROLE_HELP)] = "rater",
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a password now, instead of printing an invite.")
    ] = False,
    days: DaysOption = 7,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a rater: print an invite for them, or set their password. From then on a name alone lets nobody in."""
    asked = {"name": name, "role": role, "days": days}
    _run("raters", action="add", asked=asked, ask_password=password, workspace=workspace, as_json=as_json)


@raters.command("list")
def raters_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List raters and invites."""
    _run("raters", action="overview", asked={}, workspace=workspace, as_json=as_json)


@raters.command("invite")
def raters_invite(
    name: Annotated[str | None, typer.Argument(help="A rater who is there. Default: whoever gets the link.")] = None,
    role: Annotated[str | None, typer.Option("--role", help=f"{_ROLE_HELP} Default: the one they have.")] = None,
    days: DaysOption = 7,
    count: Annotated[int, typer.Option("--count", help="So many links, each for one person.")] = 1,
    revoke: Annotated[str, typer.Option("--revoke", metavar="ID", help="End the open invite of this id.")] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print links that each let one person in, once; with a name, also to choose a new password or take a new role."""
    asked = {"invite_id": revoke} if revoke else {"name": name, "role": role, "days": days, "count": count}
    action = "revoke" if revoke else "invite"
    _run("raters", action=action, asked=asked, workspace=workspace, as_json=as_json)


@raters.command("disable")
def raters_disable(
    name: RaterArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let them in again.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shut a rater out at once. What they rated stays."""
    asked = {"name": name, "undo": undo}
    _run("raters", action="disable", asked=asked, workspace=workspace, as_json=as_json)


@raters.command("erase")
def raters_erase(
    name: RaterArgument,
    ratings: Annotated[
        str, typer.Option("--ratings", help="keep: they stay and count, under a pseudonym. delete: they go too.")
    ] = "keep",
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking. It cannot be undone.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget who a rater is, in store, journal, snapshots and what was made of them; print a receipt of it."""
    asked = {"name": name, "ratings": ratings}
    _run("raters", action="erase", asked=asked, sure=yes, workspace=workspace, as_json=as_json)


study = typer.Typer(no_args_is_help=True, help="Compare two models or folders of pictures, blind, by people.")
app.add_typer(study, name="study")


@study.command("new")
def study_new(
    a: Annotated[str, typer.Argument(help="A round's number, reference, a checkpoint, or a folder of pictures.")],
    b: Annotated[str, typer.Argument(help="The same. What is told is how often B wins.")],
    prompts: Annotated[
        str, typer.Option("--prompts", help="A file of prompts. Default: the held-out ones, or the pictures' own.")
    ] = "held_out",
    votes: Annotated[int, typer.Option("--votes", help="Votes on each of the two questions.")] = 400,
    raters: Annotated[int, typer.Option("--raters", help="Raters of each pair.")] = 4,
    name: Annotated[str, typer.Option("--name", help="Of the study. Default: study-1, study-2 ...")] = "",
    workspace: WorkspaceOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a study: draw the pictures, make the tasks, and say what difference so many votes can find."""
    from hitl.commands.study import new
    from hitl.commands.study_making import Asked

    asked = Asked(a=a, b=b, prompts=prompts, votes=votes, raters=raters, name=name)
    new(asked, workspace, settings or [], as_json)


@study.command("status")
def study_status(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Say how many votes of each study are there."""
    from hitl.commands.study import status

    status(workspace, as_json)


@study.command("result")
def study_result(
    name: Annotated[str, typer.Argument(help="The study. Default: the only one.")] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which of the two is better on each question, and how sure that is."""
    from hitl.commands.study import result

    result(name, workspace, as_json)


db = typer.Typer(no_args_is_help=True, help="Check the store against its journal, and make it again from it.")
app.add_typer(db, name="db")


@db.command("check")
def db_check(
    quick: Annotated[
        bool, typer.Option("--quick", help="Of images, only see whether their files are there: nothing is hashed.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare journal, store, images and snapshots, also while a hub runs, and say what differs."""
    _run("db", action="check", workspace=workspace, quick=quick, as_json=as_json)


@db.command("rebuild")
def db_rebuild(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Make the store again from the journal alone. The old file is kept beside it."""
    _run("db", action="rebuild", workspace=workspace, as_json=as_json)


@app.command()
def backup(
    out: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The file to write. Default: WORKSPACE-TIME.hitl.tar in this folder."),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the whole workspace into one file, also while a hub runs."""
    _run("backup", out=out, workspace=workspace, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `hitl backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a workspace, which is kept as DIR.before-restore.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a workspace from a backup: all of it is verified before anything takes its place."""
    _run("restore", file=file, replace=replace, workspace=workspace, as_json=as_json)


@app.command()
def pretrain(
    out: Annotated[
        Path, typer.Argument(help="Folder for the training's state, logs and grids, and the finished models.")
    ],
    part: Annotated[str, typer.Option("--part", help="vae, decoder, denoiser, clip, or all.")] = "all",
    steps: Annotated[int, typer.Option("--steps", help="Steps of that part. Default: the recipe's.")] = 0,
) -> None:
    """Train the starter model again by its recipe. Takes hours; can be stopped and continued."""
    _run("pretrain", out=out, part=part, steps=steps)


def main() -> None:
    """Run the command line; expected failures end in two lines and an exit code, bugs in a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        sys.exit(app(standalone_mode=False))  # Ctrl-C and typer.Exit come back as their exit code, not as exceptions
    except HitlError as error:
        print(f"error: {error.message}\nhint:  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        _exit_for_wrong_use(error)
        raise


def _exit_for_wrong_use(error: Exception) -> None:
    """Typer's own complaints about arguments are printed as it does itself; anything else is left alone."""
    if show := getattr(error, "show", None):
        show()
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
