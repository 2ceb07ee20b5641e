"""Rows of the database as records: which columns to ask for, and what to make of them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from data.check_answers import GoldSaid, SaidTwice, agreement, correctness
from data.records import (
    Account,
    Comparison,
    Consent,
    GoldAnswer,
    Image,
    Invite,
    Judgement,
    Metric,
    Prompt,
    Rater,
    Rating,
    Repeat,
    Round,
    Task,
    WithdrawnImage,
)

Row = Sequence[Any]

PROMPT = "prompt_id, text, task, split"
IMAGE = "image_id, prompt_id, round, width, height, provenance"
WITHDRAWN_IMAGE = "image_id, reason, withdrawn_at"
TASK = (
    "tasks.task_id, tasks.round, tasks.kind, tasks.prompt_id, tasks.image_ids, tasks.overlap, tasks.policy,"
    " tasks.propensity, tasks.purpose, tasks.repeats, tasks.worse, tasks.better, tasks.models,"
    " tasks.study"
)
RATER = "rater_id, name, kind, created_at"
ACCOUNT = "rater_id, role, is_disabled, password_hash, sessions"
INVITE = "invite_id, token_hash, role, rater_id, created_at, expires_at, used_at, used_by, revoked_at"
CONSENT = "rater_id, version, language, text, given_at"
RATING = (
    "ratings.rating_id, ratings.task_id, ratings.rater_id, ratings.kind, ratings.payload, ratings.image_ids,"
    " ratings.dwell_ms, ratings.client_time, ratings.server_time, ratings.app_version, ratings.voids,"
    " ratings.decide_ms, ratings.input_device, ratings.screen_size, ratings.shown_as"
)
COMPARISON = "rating_id, task_id, round, prompt_id, prompt, rater_id, image_a, image_b, outcome, both_bad, left_side"
SNAPSHOT = (
    "round, task_id, prompt_id, prompt, task, split, rater_id, image_a, image_b, outcome, both_bad, left_side, "
    'images, "values", levels, propensity'
)
JUDGEMENT = (
    "standing.rating_id, standing.task_id, tasks.round, tasks.study, tasks.kind, tasks.prompt_id, standing.rater_id,"
    " tasks.models, outcomes.outcome, outcomes.both_bad, outcomes.left_side"
)
REPEAT = "rating_id, first_rating_id, round, rater_id, is_swapped, said"
GOLD_ANSWER = "rating_id, task_id, round, rater_id, worse, better, said"
ROUND = "number, state, started_at, finished_at, config_sha"
METRIC = "round, stage, step, name, coalesce(value, 'nan'::DOUBLE)"


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def prompt(row: Row) -> Prompt:
    return Prompt(prompt_id=row[0], text=row[1], task=row[2], split=row[3])


def image(row: Row) -> Image:
    provenance = json.loads(row[5])
    return Image(image_id=row[0], prompt_id=row[1], round=row[2], width=row[3], height=row[4], provenance=provenance)


def withdrawn_image(row: Row) -> WithdrawnImage:
    return WithdrawnImage(image_id=row[0], reason=row[1], withdrawn_at=_utc(row[2]))


def task(row: Row) -> Task:
    return Task(
        task_id=row[0],
        round=row[1],
        kind=row[2],
        prompt_id=row[3],
        image_ids=tuple(row[4]),
        overlap=row[5],
        policy=row[6],
        propensity=row[7],
        purpose=row[8],
        repeats=row[9],
        worse=row[10],
        better=row[11],
        models=None if row[12] is None else (row[12][0], row[12][1]),
        study=row[13],
    )


def rater(row: Row) -> Rater:
    return Rater(rater_id=row[0], name=row[1], kind=row[2], created_at=_utc(row[3]))


def account(row: Row) -> Account:
    return Account(rater_id=row[0], role=row[1], is_disabled=row[2], password_hash=row[3], sessions=row[4])


def consent(row: Row) -> Consent:
    return Consent(rater_id=row[0], version=row[1], language=row[2], text=row[3], given_at=_utc(row[4]))


def invite(row: Row) -> Invite:
    return Invite(
        invite_id=row[0],
        token_hash=row[1],
        role=row[2],
        rater_id=row[3],
        created_at=_utc(row[4]),
        expires_at=_utc(row[5]),
        used_at=_utc(row[6]) if row[6] else None,
        used_by=row[7],
        revoked_at=_utc(row[8]) if row[8] else None,
    )


def rating(row: Row) -> Rating:
    return Rating(
        rating_id=row[0],
        task_id=row[1],
        rater_id=row[2],
        kind=row[3],
        payload=json.loads(row[4]),
        image_ids=tuple(row[5]),
        dwell_ms=row[6],
        client_time=row[7],
        server_time=_utc(row[8]),
        app_version=row[9],
        voids=row[10],
        decide_ms=row[11],
        input_device=row[12],
        screen_size=row[13],
        shown_as=row[14],
    )


def comparison(row: Row) -> Comparison:
    return Comparison(
        rating_id=row[0],
        task_id=row[1],
        round=row[2],
        prompt_id=row[3],
        prompt=row[4],
        rater_id=row[5],
        image_a=row[6],
        image_b=row[7],
        outcome=row[8],
        both_bad=row[9],
        left=row[10],
    )


def judgement(row: Row) -> Judgement:
    return Judgement(
        rating_id=row[0],
        task_id=row[1],
        round=row[2],
        study=row[3],
        kind=row[4],
        prompt_id=row[5],
        rater_id=row[6],
        model=row[7][0],
        other=row[7][1],
        outcome=row[8],
        both_bad=row[9],
        left=row[10],
    )


def repeat(row: Row) -> Repeat:
    said = [SaidTwice(**each) for each in row[5]]
    return Repeat(
        rating_id=row[0],
        first_rating_id=row[1],
        round=row[2],
        rater_id=row[3],
        agreement=agreement(said),
        is_swapped=row[4],
    )


def gold_answer(row: Row) -> GoldAnswer:
    said = [GoldSaid(**each) for each in row[6]]
    correct = correctness(said, worse=row[4], better=row[5])
    return GoldAnswer(rating_id=row[0], task_id=row[1], round=row[2], rater_id=row[3], correct=correct)


def round_(row: Row) -> Round:
    return Round(
        number=row[0],
        state=row[1],
        started_at=_utc(row[2]),
        finished_at=_utc(row[3]) if row[3] else None,
        config_sha=row[4],
    )


def metric(row: Row) -> Metric:
    return Metric(round=row[0], stage=row[1], step=row[2], name=row[3], value=row[4])
