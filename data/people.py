"""Raters: who they are, what they may do, what they agreed to, and how one is forgotten."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial

from data import events, rows, validation
from data.database import Database
from data.erasure import Erasure, Fate
from data.fact_log import FactLog, set_position
from data.journal import Journal
from data.lock import StoreLock
from data.records import Account, Consent, Invite, PracticeOutcome, Rater
from hitl.core.errors import ConfigError


class People(FactLog):
    """The store's part that knows raters."""

    def __init__(self, database: Database, *, journal: Journal | None = None, lock: StoreLock | None = None) -> None:
        super().__init__(database, journal=journal, lock=lock)
        # Facts that never change once they are there, so that a rating asks the database as little as possible.
        self._raters: dict[str, Rater] = {}
        self._accounts: dict[str, Account] = {}
        self._has_accounts = False
        self._consents: dict[str, list[Consent]] = {}
        self.erasures = 0
        """How many raters were erased since this store was opened: what was worked out before may name them."""

    def _forget(self) -> None:
        super()._forget()
        for remembered in (self._raters, self._accounts, self._consents):
            remembered.clear()

    # -- raters ---------------------------------------------------------------------------------------------------

    def add_rater(self, rater: Rater) -> bool:
        """Add a rater; False when the id is there already.

        Raises:
            ConfigError: the name is empty or somebody else's (upper and lower case do not differ).
        """
        validation.check_rater(rater)
        with self._writing():
            if self.rater(rater.rater_id) is not None:
                return False
            self._require_free(rater.name)
            self._record("rater_added", {**asdict(rater), "created_at": validation.iso(rater.created_at)})
            self._accounts.pop(rater.rater_id, None)  # of one who had this id and was erased
        return True

    def add_raters(self, raters: Iterable[Rater], *, is_disabled: bool = False) -> int:
        """Add the raters that are not there yet by one commit; return how many. Disabled ones nobody can come in as.

        Raises:
            ConfigError: a name is empty or somebody else's.
        """
        given = {rater.rater_id: rater for rater in raters}
        with self._writing():
            new = [rater for rater_id, rater in given.items() if self.rater(rater_id) is None]
            if len({rater.name.lower() for rater in new}) < len(new):
                raise ConfigError("Two of the raters have one name.", hint="Give each a name of their own.")
            for rater in new:
                validation.check_rater(rater)
                self._require_free(rater.name)
            if new and is_disabled:  # first, so that whoever is there is shut out
                accounts = [Account(rater_id=rater.rater_id, is_disabled=True) for rater in new]
                self._record("account_set", *map(asdict, accounts))
                self._accounts.update((account.rater_id, account) for account in accounts)
            if new:
                times = ({"created_at": validation.iso(rater.created_at)} for rater in new)
                self._record("rater_added", *(asdict(rater) | at for rater, at in zip(new, times, strict=True)))
        return len(new)

    def rater(self, rater_id: str) -> Rater | None:
        if rater_id not in self._raters:
            for rater in self._raters_where("WHERE rater_id = ?", [rater_id]):
                self._raters[rater_id] = rater
        return self._raters.get(rater_id)

    def rater_by_name(self, name: str) -> Rater | None:
        """Upper and lower case do not differ."""
        return next(iter(self._raters_where("WHERE lower(name) = lower(?)", [name])), None)

    def raters(self) -> list[Rater]:
        """Raters by the time they joined."""
        return self._raters_where()

    def _raters_where(self, where: str = "", values: Sequence[object] = ()) -> list[Rater]:
        query = f"SELECT {rows.RATER} FROM raters {where} ORDER BY created_at, name"
        return [rows.rater(row) for row in self._rows(query, values)]

    # -- who may do what ------------------------------------------------------------------------------------------

    def account(self, rater_id: str) -> Account:
        """What this rater may do; of one who never got an account, or is not there, what everybody may."""
        known = self._accounts.get(rater_id)
        if known is None:
            found = self._rows(f"SELECT {rows.ACCOUNT} FROM accounts WHERE rater_id = ?", [rater_id])
            # Never over what a writer has put there meanwhile: a rater who was just disabled stays so.
            known = self._accounts.setdefault(rater_id, rows.account(found[0]) if found else Account(rater_id=rater_id))
        return known

    def has_accounts(self) -> bool:
        """Whether anybody ever got a password or an invite. Never false again once it was true: no door reopens."""
        if not self._has_accounts:
            query = "SELECT EXISTS (FROM invites) OR EXISTS (FROM accounts WHERE password_hash IS NOT NULL)"
            self._has_accounts = self._rows(query)[0][0]
        return self._has_accounts

    def set_account(self, account: Account) -> None:
        """Replace what this rater may do.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            self._require_rater(account.rater_id)
            if account != self.account(account.rater_id):
                self._record("account_set", asdict(account))
                self._accounts[account.rater_id] = account

    def add_invite(self, invite: Invite) -> None:
        """Keep an invite.

        Raises:
            ConfigError: it is for a rater who is not there.
        """
        with self._writing():
            if invite.rater_id is not None:
                self._require_rater(invite.rater_id)
            times = {"created_at": validation.iso(invite.created_at), "expires_at": validation.iso(invite.expires_at)}
            self._record("invite_added", {**asdict(invite), **times})

    def invite(self, token_hash: str) -> Invite | None:
        found = self._rows(f"SELECT {rows.INVITE} FROM invites WHERE token_hash = ?", [token_hash])
        return rows.invite(found[0]) if found else None

    def invites(self) -> list[Invite]:
        """Invites in order of arrival, whatever became of them."""
        return [rows.invite(row) for row in self._rows(f"SELECT {rows.INVITE} FROM invites ORDER BY position")]

    def use_invite(self, token_hash: str, rater: Rater, account: Account) -> bool:
        """Let a rater in, once, new or known; False when the invite is not open (any more).

        Raises:
            ConfigError: the name is empty or somebody else's.
        """
        validation.check_rater(rater)
        now = datetime.now(UTC)
        with self._writing():
            invite = self.invite(token_hash)
            if invite is None or invite.state(now) != "open" or invite.rater_id not in (None, rater.rater_id):
                return False
            new = None
            if self.rater(rater.rater_id) is None:
                self._require_free(rater.name)
                new = {**asdict(rater), "created_at": validation.iso(rater.created_at)}
            used = {"invite_id": invite.invite_id, "used_at": now.isoformat(), "rater": new, "account": asdict(account)}
            self._record("invite_used", used)
            self._accounts[rater.rater_id] = account
        return True

    def revoke_invite(self, invite_id: str) -> bool:
        """End an invite; False when it was not open."""
        now = datetime.now(UTC)
        with self._writing():
            found = next((invite for invite in self.invites() if invite.invite_id == invite_id), None)
            if found is None or found.state(now) != "open":
                return False
            self._record("invite_revoked", {"invite_id": invite_id, "revoked_at": now.isoformat()})
        return True

    def add_consent(self, consent: Consent) -> bool:
        """Keep that a rater agreed; False when they had agreed to this version already.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            self._require_rater(consent.rater_id)
            given = self.consents(consent.rater_id)
            if any(known.version == consent.version for known in given):
                return False
            self._record("consent_given", {**asdict(consent), "given_at": validation.iso(consent.given_at)})
            self._consents[consent.rater_id] = [*given, consent]
        return True

    def consents(self, rater_id: str) -> list[Consent]:
        """What a rater agreed to, in order. Asked with every rating, so it is not asked of the database again."""
        known = self._consents.get(rater_id)
        if known is None:
            query = f"SELECT {rows.CONSENT} FROM consents WHERE rater_id = ? ORDER BY position"
            # Never over what a writer has put there meanwhile.
            known = self._consents.setdefault(rater_id, [rows.consent(row) for row in self._rows(query, [rater_id])])
        return known

    def end_practice(self, rater_id: str, outcome: PracticeOutcome) -> bool:
        """Note that a rater is through the guide and its practice; False when they had been.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            self._require_rater(rater_id)
            if self.practice_outcome(rater_id) is not None:
                return False
            now = datetime.now(UTC).isoformat()
            self._record("practice_ended", {"rater_id": rater_id, "outcome": outcome, "ended_at": now})
        return True

    def practice_outcome(self, rater_id: str) -> PracticeOutcome | None:
        """How a rater's practice ended; None while it has not."""
        found = self._rows("SELECT outcome FROM practices WHERE rater_id = ?", [rater_id])
        return found[0][0] if found else None

    def erase_rater(self, rater_id: str, *, ratings: Fate = "keep", new_id: str = "") -> Rater:
        """Forget who a rater is (`data.erasure` says how); return who stands in their place, by default under a new id.

        Of who is deleted nobody does: the id and the name are those by which the journal's last line and receipts go.
        What lies beside the store is reached by `data.erasing`.

        Raises:
            ConfigError: there is no such rater.
        """
        with self._writing():
            assert self._journal is not None
            old = self._require_rater(rater_id)
            invites = {each.invite_id for each in self.invites() if rater_id in (each.rater_id, each.used_by)}
            erasure = Erasure(
                rater_id=rater_id,
                ratings=ratings,
                invites=frozenset(invites),
                **({"new_id": new_id} if new_id else {}),
            )
            now, before, has_accounts = datetime.now(UTC), self._journal.end.hash, self.has_accounts()
            with self._database.transaction() as writer:
                gone = erasure.apply(writer)
                last = partial(erasure.event, at=now, before=before, rows=gone, has_accounts=has_accounts)
                end, left_out = self._journal.write_again(erasure.line, "rater_erased", last, now)
                events.move_up(writer, left_out)
                events.apply(writer, [events.Event(seq=end.seq, name="rater_erased", data=last(left_out))])
                writer.execute("UPDATE store_state SET has_erased = TRUE")
                set_position(writer, end)
            self.erasures += 1
            try:
                self._journal.adopt(end)
            except BaseException:
                # The store is ahead of the log that is open. Nothing may be added to it; the next start settles it.
                self._journal.close()
                self._journal = None
                raise
            self._seen = end
            self._database.checkpoint()
            self._raters.pop(rater_id, None)
            self._consents.pop(rater_id, None)
            self._accounts[rater_id] = Account(rater_id=rater_id, is_disabled=True)
            return replace(old, rater_id=erasure.new_id, name=erasure.new_name)

    def rows_of_erased(self, new_id: str) -> dict[str, int]:
        """By table, how many rows are left under the id of who stands in an erased rater's place."""
        with self._database.reading() as cursor:
            return Erasure(rater_id="", new_id=new_id).rows_left(cursor)

    @property
    def holds_erased_bytes(self) -> bool:
        """Whether free parts of the file hold what was erased; the next `open` writes the file anew."""
        return self._rows("SELECT has_erased FROM store_state")[0][0]

    def _require_rater(self, rater_id: str) -> Rater:
        rater = self.rater(rater_id)
        if rater is None:
            raise ConfigError(f"There is no rater {rater_id!r}.", hint="`hitl raters list` names them all.")
        return rater

    def _require_free(self, name: str) -> None:
        if self.rater_by_name(name) is not None:
            raise ConfigError(f"There is a rater called {name!r} already.", hint="Choose another name.")
