"""When an image is fetched: pure decisions over what is known of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from tinyagentos.model.errors import TaosError, Untrusted
from tinyagentos.model.image import ImagePolicy, SupplyRecord
from tinyagentos.model.release import ImageTarget

# In place of a fingerprint: nothing that the channel says can be trusted.
CHANNEL = "channel"
CHECK_EVERY = timedelta(days=1)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=2), timedelta(hours=12)
AUTOMATIC = frozenset({ImagePolicy.lazy, ImagePolicy.background})


def after_look(
    record: SupplyRecord, newest: ImageTarget, now: datetime, chance: float
) -> SupplyRecord:
    """The record when the channel has told its newest release; chance: 0 to 1, spreads the checks.

    A release other than the one that was refused ends the refusal.
    """
    rejected = record.rejected if record.rejected == newest.fingerprint else ""
    return replace(
        record,
        fingerprint=newest.fingerprint,
        version=newest.version,
        size_bytes=newest.size_bytes,
        unpacked_bytes=newest.unpacked_bytes,
        rejected=rejected,
        reason=record.reason if rejected or record.failures else "",
        check_at=now + CHECK_EVERY * (1 - 0.25 * chance),
    )


def after_vain_look(record: SupplyRecord, now: datetime, chance: float) -> SupplyRecord:
    """The record when the channel has told that it has no image."""
    return replace(record, check_at=now + CHECK_EVERY * (1 - 0.25 * chance))


def after_failure(
    record: SupplyRecord, error: TaosError, now: datetime, chance: float, *, fetched: str = ""
) -> SupplyRecord:
    """The record when the image could not be had. fetched: the fingerprint that was on its way.

    What cannot be trusted is not tried again by itself; what cannot be had is, ever more rarely.
    """
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(record.failures, 16)) * (1 - 0.5 * chance)
    rejected = (fetched or CHANNEL) if isinstance(error, Untrusted) else ""
    return replace(
        record,
        failures=record.failures + 1,
        reason=error.message,
        rejected=rejected,
        try_at=now + pause,
        check_at=now + CHECK_EVERY * (1 - 0.25 * chance) if rejected else record.check_at,
    )


def after_success(record: SupplyRecord) -> SupplyRecord:
    """The record when the newest image is in use."""
    return replace(after_asking(record), failures=0, reason="", rejected="", try_at=None)


def after_stop(record: SupplyRecord) -> SupplyRecord:
    """The record when somebody stopped the download."""
    return replace(record, stopped=True, discards=False)


def after_asking(record: SupplyRecord) -> SupplyRecord:
    """The record when somebody wants the image after all."""
    return replace(record, stopped=False, discards=False)


def may_try(record: SupplyRecord, policy: ImagePolicy, now: datetime) -> bool:
    """Whether the policy may begin to fetch by itself now."""
    waits = record.try_at is not None and now < record.try_at
    return policy in AUTOMATIC and not (record.rejected or record.stopped or waits)


def is_check_due(record: SupplyRecord, policy: ImagePolicy, now: datetime) -> bool:
    """Whether the channel is to be asked what is newest."""
    if policy is ImagePolicy.off:
        return False
    waits = record.try_at is not None and now < record.try_at
    return not waits and (record.check_at is None or now >= record.check_at)


def is_stale(record: SupplyRecord, fingerprint: str) -> bool:
    """Whether the channel has another release than the image that is here."""
    return bool(record.fingerprint) and record.fingerprint != fingerprint


def is_wanted(record: SupplyRecord, policy: ImagePolicy, held: str) -> bool:
    """Whether the policy wants the image fetched without anybody's asking now.

    held: the fingerprint of the image that is here, or nothing. Lazily: what was begun and failed,
    and what is newer than an image that is here. In the background: whatever is not here.
    """
    if policy is ImagePolicy.background:
        return not held or is_stale(record, held)
    if policy is ImagePolicy.lazy:
        return is_stale(record, held) if held else record.failures > 0
    return False
