"""What may be too much to be held at once, as Arrow record batches: memory does not grow with the store.

Ratings are joined with what they are about some at a time, by their position. Joined all at once, the tables that are
joined would have to be in memory. Every stream gives at least one batch, so that its columns are known.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from data.database import Database

_RATINGS_AT_ONCE = 50_000
_PAIRS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which ratings are read, and how their raters are called."""

    round: int | None = None
    rater_ids: tuple[str, ...] | None = None
    has_names: bool = False
    """Raters by their names; else as rater-001 and on, in the order in which they joined."""
    lost: tuple[str, ...] = ()
    """Images whose files cannot be read, beside those that were withdrawn."""


class Streams:
    """Of one selection. Answers are those that stand, without skips and checks."""

    def __init__(self, database: Database, selection: Selection) -> None:
        self._database = database
        self._selection = selection

    # -- all columns of the facts ---------------------------------------------------------------------------------

    def prompts(self) -> Iterator[pa.RecordBatch]:
        """Columns of `records.Prompt`; of a round, those that its tasks ask about."""
        of_round = self._of_round("prompt_id IN (SELECT prompt_id FROM tasks WHERE round = {})")
        yield from self._database.batches(f"SELECT prompt_id, text, task, split FROM prompts WHERE {of_round}")

    def images(self) -> Iterator[pa.RecordBatch]:
        """Columns of `records.Image`, and why it is withdrawn, if it is; of a round, those that its tasks show."""
        of_round = self._of_round("images.image_id IN (SELECT unnest(image_ids) FROM tasks WHERE round = {})")
        yield from self._database.batches(
            f"""
            SELECT images.image_id, prompt_id, round, width, height, provenance, reason AS withdrawn
            FROM images LEFT JOIN withdrawn_images USING (image_id) WHERE {of_round}
            """
        )

    def tasks(self) -> Iterator[pa.RecordBatch]:
        """Columns of `records.Task`."""
        yield from self._database.batches(
            f"""
            SELECT
                task_id, round, kind, prompt_id, image_ids, overlap, policy, propensity, purpose, repeats, worse,
                better, models, study
            FROM tasks WHERE {self._of_round("round = {}")}
            """
        )

    def raters(self) -> Iterator[pa.RecordBatch]:
        """Columns of `records.Rater`; the id is a pseudonym too, unless they go by their names."""
        yield from self._database.batches(
            f"""
            WITH {_PEOPLE}
            SELECT {self._rater_id} AS rater_id, {self._rater} AS name, kind, created_at
            FROM people WHERE {self._of_raters} ORDER BY number
            """
        )

    def ratings(self) -> Iterator[pa.RecordBatch]:
        """Columns of `records.Rating`, of every row: skips, checks, undos and what they took back included."""
        of_round = self._of_round("task_id IN (SELECT task_id FROM tasks WHERE round = {})")
        for where in self._parts():
            yield from self._database.batches(
                f"""
                WITH {_PEOPLE}
                SELECT
                    rating_id, task_id, {self._rater_id} AS rater_id, ratings.kind, payload, image_ids, dwell_ms,
                    client_time, server_time, app_version, voids, decide_ms, input_device, screen_size, shown_as
                FROM ratings JOIN people USING (rater_id)
                WHERE {where} AND {of_round} AND {self._of_raters} ORDER BY position
                """
            )

    # -- what the answers say -------------------------------------------------------------------------------------

    def answers(self) -> Iterator[pa.RecordBatch]:
        """One row for each answer, with no more than who answered and about which prompt."""
        for said in self._said():
            yield from self._database.batches(f"{said} SELECT rater, prompt_id FROM about ORDER BY position")

    def pairs(self) -> Iterator[pa.RecordBatch]:
        """One row for each two images that an answer compares: those of a pair, and any two of a ranking or of grades.

        `image_a` and `image_b` are in the task's order, `left` says which was displayed first, and `is_lost` that the
        file of one cannot be had.
        """
        for said in self._said():
            yield from self._database.batches(
                f"""
                {said}, {_PAIRS}
                SELECT
                    about.* EXCLUDE (position, displayed), image_a, image_b, outcome, both_bad, left_side AS "left",
                    image_a IN (SELECT image_id FROM gone) OR image_b IN (SELECT image_id FROM gone) AS is_lost
                FROM about JOIN pairs USING (rating_id) ORDER BY position, image_a, image_b
                """
            )

    def groups(self) -> Iterator[pa.RecordBatch]:
        """One row for each answer: its images in the task's order, and what it says of them on each axis."""
        for said in self._said():
            yield from self._database.batches(
                f"""
                {said}, judgements AS (
                    SELECT
                        rating_id, any_value(image_ids) AS images, bool_or(both_bad) AS both_bad,
                        list({{axis: axis, "values": "values", levels: levels}} ORDER BY axis) AS judged
                    FROM given_values WHERE rating_id IN (SELECT rating_id FROM said) GROUP BY rating_id
                )
                SELECT
                    about.* EXCLUDE (position, displayed), images, both_bad, judged,
                    list_has_any(images, (SELECT list(image_id) FROM gone)) IS TRUE AS is_lost
                FROM about JOIN judgements USING (rating_id) ORDER BY position
                """
            )

    def votes(self, *, count_ties: bool) -> Iterator[pa.RecordBatch]:
        """One row for each two images that were compared, whoever compared them: how many did, and how
        many of them for `one`.

        A tie is half a vote for each, or none. Ordered by the images' ids, which is no order that means anything.
        """
        total = self._database.rows("SELECT count(*) FROM outcomes")[0][0]
        total += self._database.rows("SELECT coalesce(sum(len(image_ids) ** 2 / 2), 0) FROM image_values")[0][0]
        parts = 1 + int(total) // _PAIRS_AT_ONCE
        bounds = [f"{16**4 * part // parts:04x}" for part in range(parts)] + ["g"]
        ties = "TRUE" if count_ties else "outcome <> 'tie'"
        for low, high in itertools.pairwise(bounds):
            said = self._said_where(
                f"""
                rating_id IN (
                    SELECT rating_id FROM outcomes
                    WHERE least(image_a, image_b) >= '{low}' AND least(image_a, image_b) < '{high}'
                    UNION ALL
                    SELECT rating_id FROM image_values
                    WHERE len(list_filter(image_ids, lambda each: each >= '{low}' AND each < '{high}')) > 0
                )
                """
            )
            yield from self._database.batches(
                f"""
                {said}, {_PAIRS}, ordered AS (
                    SELECT
                        rating_id, least(image_a, image_b) AS one, greatest(image_a, image_b) AS other,
                        CASE WHEN outcome = 'tie' THEN 0.5 WHEN (outcome = 'a') = (image_a < image_b) THEN 1 ELSE 0 END
                            AS won
                    FROM pairs WHERE {ties}
                )
                SELECT
                    prompt_id, any_value(prompt) AS prompt, any_value(task) AS task, any_value(split) AS split,
                    any_value(half) AS half, one, other, count(*) AS n_votes, sum(won)::DOUBLE AS won,
                    bool_or(one IN (SELECT image_id FROM gone) OR other IN (SELECT image_id FROM gone)) AS is_lost
                FROM ordered JOIN about USING (rating_id) WHERE one >= '{low}' AND one < '{high}'
                GROUP BY prompt_id, one, other ORDER BY one, other, prompt_id
                """
            )

    def provenance(self, image_ids: set[str]) -> dict[str, str]:
        """How some images came to be, as JSON, by id."""
        found = self._database.rows(
            "SELECT image_id, min(provenance) FROM images WHERE image_id IN (SELECT unnest($1::VARCHAR[])) GROUP BY 1",
            [sorted(image_ids)],
        )
        return dict(found)

    # -- what a query is made of ----------------------------------------------------------------------------------

    @property
    def _rater(self) -> str:
        return "people.name" if self._selection.has_names else "pseudonym"

    @property
    def _rater_id(self) -> str:
        return "people.rater_id" if self._selection.has_names else "pseudonym"

    @property
    def _of_raters(self) -> str:
        wanted = self._selection.rater_ids
        return "TRUE" if wanted is None else f"people.rater_id IN (SELECT unnest({_texts(wanted)}))"

    def _of_round(self, condition: str) -> str:
        number = self._selection.round
        return "TRUE" if number is None else condition.format(int(number))

    def _parts(self) -> Iterator[str]:
        """Conditions on the position that share all ratings out, so many to each."""
        firsts = self._database.rows(
            f"""
            SELECT min(position) FROM (
                SELECT position, (row_number() OVER () - 1) // {_RATINGS_AT_ONCE} AS part FROM ratings
            ) GROUP BY part ORDER BY 1
            """
        )
        bounds = [first for (first,) in firsts[1:]]
        for low, high in itertools.pairwise([-1, *bounds, 2**63 - 1]):
            yield f"position >= {low} AND position < {high}"

    def _said(self) -> Iterator[str]:
        yield from map(self._said_where, self._parts())

    def _said_where(self, where: str) -> str:
        """The beginning of a query: `said` are answers of some positions, `about` adds what they are about."""
        return f"""
            WITH {_PEOPLE}, asked_about AS (
                SELECT *, row_number() OVER (PARTITION BY split ORDER BY prompt_id) % 2 AS half FROM prompts
            ), gone AS (
                SELECT image_id FROM withdrawn_images UNION SELECT unnest({_texts(self._selection.lost)})
            ), said AS MATERIALIZED (
                SELECT * FROM standing_ratings WHERE NOT is_skip AND {where}
            ), about AS (
                SELECT
                    said.rating_id, said.position, said.image_ids AS displayed, tasks.round, said.task_id,
                    tasks.prompt_id, asked_about.text AS prompt, asked_about.task, asked_about.split, asked_about.half,
                    {self._rater} AS rater, number AS rater_number, said.kind, tasks.propensity, said.dwell_ms,
                    said.server_time, json_extract(said.payload, '$.flags')::VARCHAR AS flags
                FROM said
                JOIN tasks USING (task_id)
                JOIN asked_about ON asked_about.prompt_id = tasks.prompt_id
                JOIN people ON people.rater_id = said.rater_id
                WHERE tasks.purpose = 'learn' AND {self._of_round("tasks.round = {}")} AND {self._of_raters}
            )
        """


_PEOPLE = """people AS (
    SELECT
        *, row_number() OVER (ORDER BY created_at, name) AS number,
        printf('rater-%03d', row_number() OVER (ORDER BY created_at, name)) AS pseudonym
    FROM raters
)"""
_UNPLACED = 1_000_000
_PAIRS = f"""places AS (
    SELECT
        rating_id, said.image_ids AS displayed, image_values.image_ids,
        list_transform(
            "values", lambda value: CASE WHEN levels IS NULL THEN coalesce(value, {_UNPLACED}) ELSE -value END
        ) AS places
    FROM said JOIN image_values USING (rating_id) WHERE axis = 'overall'
), firsts AS (
    SELECT *, unnest(range(1, len(image_ids))) AS i FROM places
), two AS (
    SELECT *, unnest(range(i + 1, len(image_ids) + 1)) AS j FROM firsts
), pairs AS (
    SELECT rating_id, image_a, image_b, outcome, both_bad, left_side
    FROM outcomes WHERE rating_id IN (SELECT rating_id FROM said)
    UNION ALL
    SELECT
        rating_id, image_ids[i], image_ids[j],
        CASE WHEN places[i] < places[j] THEN 'a' WHEN places[i] > places[j] THEN 'b' ELSE 'tie' END, FALSE,
        CASE
            WHEN list_position(displayed, image_ids[i]) < list_position(displayed, image_ids[j]) THEN 'a' ELSE 'b'
        END
    FROM two WHERE places[i] <> {_UNPLACED} OR places[j] <> {_UNPLACED}
)"""
"""Of the answers `said`: the pairs that were asked about, and any two of several images that have places or grades."""


def _texts(values: tuple[str, ...]) -> str:
    """A list of texts as SQL."""
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]::VARCHAR[]"
