"""`hitl raters`: who may rate, see the board, and let others in. Through the running hub, else in the store itself."""

import contextlib
import json
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from apps.accounts import Accounts
from data.at_work import files_alone
from data.erasing import Erasures
from data.lock import holder
from data.receipts import Receipt, in_words, read_receipts
from data.store import Store
from data.workspace import Workspace
from hitl.commands.reading import ask_hub
from hitl.config import load_config
from hitl.core.errors import ConfigError
from hitl.report import build_report

_LONGEST_ERASURE_S = 600
"""Of a journal with millions of lines."""

Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


def run(
    action: str,
    asked: dict[str, Any],
    workspace: Path | None,
    as_json: bool,
    *,
    ask_password: bool = False,
    sure: bool = False,
) -> None:
    folder = Workspace.find(workspace)
    if ask_password:
        asked["password"] = _read_password()
    if action == "erase":
        if not sure:
            _confirm(asked["name"], asked["ratings"])
        told, receipts = _erase(folder, asked)
        if as_json:
            told |= {"receipts": [asdict(receipt) for receipt in receipts]}
            print(json.dumps(told, indent=2))
        else:
            print("\n\n".join(in_words(each, folder.erasures_dir / each.file_name) for each in receipts))
        return
    with _office(folder) as ask:
        told = ask(action, asked)
        for invite in told.get("invites", []):
            if "token" in invite:
                invite["link"] = f"{_public_url(folder)}/join#{invite.pop('token')}"
    print(json.dumps(told, indent=2) if as_json else describe(action, told))


def describe(action: str, told: dict[str, Any]) -> str:
    """What was done or is there, for people."""
    match action:
        case "overview":
            return "\n".join([*map(_rater_line, told["raters"]), *map(_invite_line, told["invites"])]) or (
                "Nobody has rated here yet.\nNext: hitl raters add NAME"
            )
        case "revoke":
            return f"The invite {told['revoked']} lets nobody in any more."
        case "disable":
            state = "is shut out" if told["rater"]["disabled"] else "may come in again"
            return f"{told['rater']['name']} {state}."
    who = [f"Added {told['rater']['name']} ({told['rater']['role']})."] if "rater" in told else []
    links = [
        f"{invite['link']}  (until {invite['expires_at'][:16]} UTC, {invite['role']})" for invite in told["invites"]
    ]
    return "\n".join([*who, *(["Each link lets one person in, once:"] if links else []), *links])


@contextlib.contextmanager
def _office(folder: Workspace) -> Iterator[Ask]:
    """Ask the hub where one runs; where none does, open the store and do the same there."""
    if holder(folder.lock_path) is not None:
        yield (
            lambda action, asked: (
                ask_hub(folder, "GET", "/api/raters")
                if action == "overview"
                else ask_hub(folder, "POST", f"/api/raters/{action}", asked, timeout_s=_LONGEST_ERASURE_S)
            )
        )
        return
    with Store.open(folder) as store:
        accounts = Accounts(store)
        yield lambda action, asked: getattr(accounts, action)(**asked)


def _erase(folder: Workspace, asked: dict[str, Any]) -> tuple[dict[str, Any], list[Receipt]]:
    """Erase a rater. Without a hub also what was left of an erasure that was interrupted: it may be the one asked for.

    The receipts are those of all that was erased, the one asked for last.
    """
    if holder(folder.lock_path) is not None:
        told = ask_hub(folder, "POST", "/api/raters/erase", asked, timeout_s=_LONGEST_ERASURE_S)
        names = [told["receipt"]]
    else:
        with Store.open(folder) as store:
            erasures = Erasures(store=store, workspace=folder, write_report=build_report)
            names = [receipt.file_name for receipt in _finish(erasures)]
            try:
                told = Accounts(store).erase(**asked, erasures=erasures)
                names.append(told["receipt"])
            except ConfigError:
                if not names:
                    raise
                told = {"receipt": names[-1]}
            _finish(erasures)
        with Store.open(folder) as store:  # which drops what is left in free parts of its file
            Erasures(store=store, workspace=folder, write_report=build_report).finish()
    return told, [receipt for receipt in read_receipts(folder) if receipt.file_name in names]


def _finish(erasures: Erasures) -> list[Receipt]:
    """All that is left, when nobody works with the files any more: `hitl fit` may."""
    with files_alone(erasures.workspace, wait=False) as is_alone:
        if not is_alone:
            print("Waiting for another command to be done with the files of rounds and fits.", file=sys.stderr)
    return erasures.finish(wait=True)


def _public_url(folder: Workspace) -> str:
    """Where an invite leads: where the hub that runs says it is, else where it would be."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads(folder.hub_path.read_text())["public_url"]
    server = load_config(folder.config_path, []).server
    if server.public_url:
        return server.public_url.rstrip("/")
    host = socket.gethostname() if server.host in ("0.0.0.0", "::", "") else server.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{server.port}{server.root_path}"


def _read_password() -> str:
    """Typed twice on a terminal; else one line of the standard input, so that no password stands in a command."""
    if sys.stdin.isatty():
        return typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise ConfigError("--password got an empty line.", hint="Type one, or leave --password out to get an invite.")
    return password


def _confirm(name: str, ratings: str) -> None:
    """Raise a ConfigError where nobody can be asked, typer.Abort where the answer is no."""
    if not sys.stdin.isatty():
        raise ConfigError(f"Erasing {name!r} cannot be undone.", hint="Add --yes to do it.")
    fate = "keeping their ratings under a pseudonym" if ratings == "keep" else "with all that they rated"
    typer.confirm(f"Erase {name!r}, {fate}? It cannot be undone.", abort=True, err=True)


def _rater_line(rater: dict[str, Any]) -> str:
    marks = [
        *(["disabled"] if rater["disabled"] else []),
        *(["password"] if rater["has_password"] else []),
        *(["simulated"] if rater["kind"] == "simulated" else []),
    ]
    return f"{rater['name']:24} {rater['role']:10} {rater['ratings']:6} ratings  {', '.join(marks)}".rstrip()


def _invite_line(invite: dict[str, Any]) -> str:
    state = invite["state"] + (f" for {invite['name']}" if invite["name"] else "")
    return f"invite {invite['invite_id']} {invite['role']:10} {state}, until {invite['expires_at'][:16]} UTC"
