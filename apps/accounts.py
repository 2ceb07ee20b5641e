"""Who comes in and as whom: passwords, invites, and what `hitl raters` does. Knows neither HTTP nor Gradio."""

import hashlib
import secrets
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from apps.limits import BackOff, Clock, network_of, whole_seconds
from apps.session import Refused, clean_name, new_rater
from data.erasing import Erasures
from data.erasure import Fate
from data.records import ROLES, Account, Invite, Rater, Role, standing_ratings
from data.store import Store
from hitl.core.errors import ConfigError
from hitl.core.registry import closest

INVITE_DAYS = 7
SHORTEST_PASSWORD = 8
MOST_INVITES = 1000

_LONGEST_PASSWORD = 200
_LONGEST_INVITE_DAYS = 365
_HASHING_AT_ONCE = 2
"""A hash takes 64 MiB and all it can get of the processor, which is what makes guessing slow."""
_WAITING_TO_HASH = 8


class Accounts:
    """The people of one store. Tries are counted here, so that a wrong password costs time whatever page it came by."""

    def __init__(
        self,
        store: Store,
        *,
        open_join: bool = True,
        clock: Clock = time.monotonic,
        hasher: PasswordHasher | None = None,
    ) -> None:
        """With `open_join` a name is enough to come in until somebody has an account: not where other machines can ask.

        A cheaper `hasher` than argon2's own default is for tests, which are in a hurry; a guesser is too.
        """
        self.store = store
        self.open_join = open_join
        self._hasher = hasher or PasswordHasher()
        self._hashing = threading.Semaphore(_HASHING_AT_ONCE)
        self._entering = threading.Semaphore(_HASHING_AT_ONCE + _WAITING_TO_HASH)
        self._by_name = BackOff(free=5, clock=clock)
        self._by_address = BackOff(free=20, clock=clock)  # of a whole lab, maybe
        self._decoy = ""

    @property
    def is_open(self) -> bool:
        """Whether a name is enough to come in: nobody has an account yet, and no other machine reaches the app."""
        return self.open_join and not self.store.has_accounts()

    # -- coming in ------------------------------------------------------------------------------------------------

    def login(self, name: str, password: str, *, address: str) -> Rater:
        """The rater of that name and password.

        Raises:
            Refused: they do not fit, or it was tried too often. Which of the two is wrong is not told.
        """
        key, place = f"name {clean_name(name).casefold()}", network_of(address)
        with self._try(place):
            _refuse_while(self._by_name.start(key))
            rater = self.store.rater_by_name(clean_name(name))
            account = self.store.account(rater.rater_id) if rater else None
            known = account.password_hash if account and not account.is_disabled else None
            if not self._fits(known, password) or rater is None:
                raise Refused(
                    "Name and password do not fit each other.",
                    hint="Check both. Who runs the project can send you a new invite.",
                    status=403,
                )
            self._by_name.succeed(key)
            return rater

    def look(self, token: str, *, address: str) -> dict[str, Any]:
        """What the page asks for: a name unless the invite has one, a password where the role needs one."""
        with self._try(network_of(address)):
            invite = self._open_invite(token)
            rater = self.store.rater(invite.rater_id) if invite.rater_id else None
            return {"name": rater.name if rater else None, "role": invite.role}

    def redeem(self, token: str, *, name: str, password: str, address: str) -> Rater:
        """Use an invite up. An empty password leaves the one there is; without one only this session lets them in.

        Raises:
            Refused: the invite is not open, the name is taken, or the password will not do.
        """
        with self._try(network_of(address)):
            invite = self._open_invite(token)
            rater = self._person_of(invite, name)
            account = self.store.account(rater.rater_id)
            if account.is_disabled:
                raise _no_invite()
            account = replace(account, role=invite.role)
            if password:
                account = self._with_password(account, rater.name, password)
            elif invite.role != "rater" and not account.password_hash:
                raise Refused(f"A {invite.role} needs a password.", hint="Choose one.", status=400)
            if not self.store.use_invite(_hash(token), rater, account):
                raise _no_invite()
            return rater

    @contextmanager
    def _try(self, place: str) -> Iterator[None]:
        """Count a try of this address: a failed one until the block ends well."""
        _refuse_while(self._by_address.start(place))
        yield
        self._by_address.succeed(place, forgive=False)

    def _open_invite(self, token: str) -> Invite:
        invite = self.store.invite(_hash(token))
        if invite is None or invite.state(datetime.now(UTC)) != "open":
            raise _no_invite()
        return invite

    def _person_of(self, invite: Invite, name: str) -> Rater:
        if invite.rater_id is not None:
            rater = self.store.rater(invite.rater_id)
            if rater is None:
                raise _no_invite()
            return rater
        clean = clean_name(name)
        if self.store.rater_by_name(clean) is not None:
            raise Refused(f"The name {clean!r} is taken.", hint="Choose another name.", status=409)
        return new_rater(clean)

    # -- passwords ------------------------------------------------------------------------------------------------

    def _with_password(self, account: Account, name: str, password: str) -> Account:
        """The account with a new password, which ends the sessions that were opened under the old one."""
        text = _normal(password)
        if not SHORTEST_PASSWORD <= len(text) <= _LONGEST_PASSWORD or text.casefold() == name.casefold():
            raise Refused(
                "That password will not do.",
                hint=f"Use {SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} characters that are not your name;"
                " a few words that do not belong together are easy to remember.",
                status=400,
            )
        with self._turn_to_hash():
            return replace(account, password_hash=self._hasher.hash(_bytes(text)), sessions=account.sessions + 1)

    def _fits(self, known: str | None, password: str) -> bool:
        """Whether the password is the one. Where there is none it takes as long, so that time tells nothing."""
        with self._turn_to_hash():
            self._decoy = self._decoy or self._hasher.hash(secrets.token_urlsafe())
            try:
                self._hasher.verify(known or self._decoy, _bytes(_normal(password)[: _LONGEST_PASSWORD + 1]))
            except (VerificationError, InvalidHashError):
                return False
            return bool(known)

    @contextmanager
    def _turn_to_hash(self) -> Iterator[None]:
        """A few at a time; who comes when many wait is sent away, so that no thread is kept from the ratings."""
        if not self._entering.acquire(blocking=False):
            _refuse_while(2)
        try:
            with self._hashing:
                yield
        finally:
            self._entering.release()

    # -- what an admin does ---------------------------------------------------------------------------------------

    def add(self, name: str, *, role: Role = "rater", password: str = "", days: float = INVITE_DAYS) -> dict[str, Any]:
        """A new rater, with a password or else with an invite to choose one.

        Raises:
            ConfigError: the name is taken.
        """
        rater = new_rater(clean_name(name))
        account = Account(rater_id=rater.rater_id, role=_check_role(role))
        if password:
            account = self._with_password(account, rater.name, password)
        _check_days(days)
        if not self.store.add_rater(rater):
            raise ConfigError(f"There is a rater {rater.rater_id} already.", hint="Try again.")
        self.store.set_account(account)
        made = [] if password else self.invite(rater.name, days=days)["invites"]
        return {"rater": self._describe(rater), "invites": made}

    def invite(
        self, name: str | None = None, *, role: Role | None = None, days: float = INVITE_DAYS, count: int = 1
    ) -> dict[str, Any]:
        """Tokens that each let one person in once: the rater of that name, or (without one) whoever has the token.

        The token is told here and never again: the store keeps a hash.
        """
        _check_days(days)
        if not 1 <= count <= (1 if name else MOST_INVITES):
            raise ConfigError(
                f"{count} invites were asked for.", hint=f"Ask for 1 to {MOST_INVITES}, or for one with a name."
            )
        rater = self._find(name) if name else None
        if rater is not None and self.store.account(rater.rater_id).is_disabled:
            raise ConfigError(
                f"{rater.name!r} is disabled.", hint=f"First run: hitl raters disable {rater.name!r} --undo"
            )
        role = _check_role(role or (self.store.account(rater.rater_id).role if rater else "rater"))
        return {"invites": [self._new_invite(rater, role, days) for _ in range(count)]}

    def revoke(self, invite_id: str) -> dict[str, Any]:
        """End an invite that was not used yet."""
        if not self.store.revoke_invite(invite_id):
            raise ConfigError(
                f"There is no open invite {invite_id!r}.",
                hint="`hitl raters list` shows them, and what became of each.",
            )
        return {"revoked": invite_id}

    def disable(self, name: str, *, undo: bool = False) -> dict[str, Any]:
        """Shut a rater out, their open sessions at once; or let them in again."""
        rater = self._find(name)
        account = self.store.account(rater.rater_id)
        self.store.set_account(replace(account, is_disabled=not undo, sessions=account.sessions + 1))
        return {"rater": self._describe(rater)}

    def erase(self, name: str, erasures: Erasures, *, ratings: Fate = "keep") -> dict[str, Any]:
        """Forget who a rater is, now in store and journal, and in the files as soon as nobody works with them.

        The `rater` told is who stands in their place: of who is deleted nobody does.
        """
        if ratings not in ("keep", "delete"):
            raise ConfigError(f"ratings is {ratings!r}.", hint="Use keep or delete.")
        receipt = erasures.begin(self._find(name).rater_id, ratings)
        erasures.finish()
        left = self.store.rater_by_name(receipt.pseudonym)
        return {"rater": self._describe(left) if left else None, "ratings": ratings, "receipt": receipt.file_name}

    def overview(self) -> dict[str, Any]:
        """Everybody, and every invite, without anything that lets anybody in."""
        counts = Counter(rating.rater_id for rating in standing_ratings(self.store.ratings()))
        raters = [{**self._describe(rater), "ratings": counts[rater.rater_id]} for rater in self.store.raters()]
        return {"raters": raters, "invites": [self._describe_invite(invite) for invite in self.store.invites()]}

    def _new_invite(self, rater: Rater | None, role: Role, days: float) -> dict[str, Any]:
        token = secrets.token_urlsafe(24)
        now = datetime.now(UTC)
        invite = Invite(
            invite_id=secrets.token_hex(4),
            token_hash=_hash(token),
            role=role,
            rater_id=rater.rater_id if rater else None,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        self.store.add_invite(invite)
        return {**self._describe_invite(invite), "token": token}

    def _find(self, name: str) -> Rater:
        """By name, or by id where a name is hard to type."""
        found = self.store.rater_by_name(name) or self.store.rater(name)
        if found is None:
            raise ConfigError(
                f"There is no rater {name!r}.", hint=closest(name, [rater.name for rater in self.store.raters()])
            )
        return found

    def _describe(self, rater: Rater) -> dict[str, Any]:
        account = self.store.account(rater.rater_id)
        return {
            "rater_id": rater.rater_id,
            "name": rater.name,
            "kind": rater.kind,
            "role": account.role,
            "disabled": account.is_disabled,
            "has_password": bool(account.password_hash),
            "created_at": rater.created_at.isoformat(),
        }

    def _describe_invite(self, invite: Invite) -> dict[str, Any]:
        who = invite.used_by or invite.rater_id
        rater = self.store.rater(who) if who else None
        return {
            "invite_id": invite.invite_id,
            "role": invite.role,
            "name": rater.name if rater else None,
            "state": invite.state(datetime.now(UTC)),
            "created_at": invite.created_at.isoformat(),
            "expires_at": invite.expires_at.isoformat(),
        }


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _normal(password: str) -> str:
    """The same however a keyboard composes its letters."""
    return unicodedata.normalize("NFKC", password)


def _bytes(password: str) -> bytes:
    """Half a Unicode character is no mistake of the server's."""
    return password.encode("utf-8", "surrogatepass")


def _check_role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise ConfigError(f"There is no role {role!r}.", hint=closest(role, list(ROLES)))


def _check_days(days: float) -> None:
    if not 0 < days <= _LONGEST_INVITE_DAYS:
        raise ConfigError(f"An invite was to be open for {days:g} days.", hint=f"Use 1 to {_LONGEST_INVITE_DAYS} days.")


def _refuse_while(wait_s: float) -> None:
    if wait_s > 0:
        seconds = whole_seconds(wait_s)
        raise Refused(
            f"That was tried too often. Please wait {seconds} s.",
            hint="Then try again; who runs the project can send you a new invite.",
            status=429,
            wait_s=seconds,
        )


def _no_invite() -> Refused:
    return Refused(
        "This invite lets nobody in (any more): it was used, has ended or was taken back.",
        hint="Sign in with your password, or ask who runs the project for a new invite.",
        status=403,
    )
