"""Doctor and setup: the same checks, looked at by one and made to pass by the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinyagentos.config import Settings
from tinyagentos.host.check import Check, Finding, Ground, Verdict, broken
from tinyagentos.host.checks import CHECKS
from tinyagentos.host.facts import HostFacts, read_facts
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import HostNotReady, TaosError, Unauthorized

Report = Callable[[str], None]
LOOK_WITHIN = 15.0


@dataclass(frozen=True)
class Result:
    """A check and what its look found."""

    check: Check
    finding: Finding


async def examine_host(
    settings: Settings,
    checks: Sequence[Check] = CHECKS,
    *,
    facts: HostFacts | None = None,
    within: float = LOOK_WITHIN,
) -> tuple[Result, ...]:
    """Look at everything at once, each look within its time; nothing is changed.

    facts: what the host is, where it is known already.
    """
    ground = Ground(settings, facts or read_facts())
    findings = await asyncio.gather(*(_look(check, ground, within) for check in checks))
    return tuple(Result(check, found) for check, found in zip(checks, findings, strict=True))


async def set_up_host(
    settings: Settings,
    *,
    report: Report,
    dry_run: bool = False,
    checks: Sequence[Check] = CHECKS,
    facts: HostFacts | None = None,
) -> tuple[str, ...]:
    """Make every check pass, in order; the plans that were carried out (or would be).

    What is there already is adopted as it is. Raises HostNotReady with the sentence of the first
    check that cannot be made to pass.
    """
    ground = Ground(settings, facts or read_facts())
    plans = []
    for check in checks:
        found = await _look(check, ground)
        if found.verdict is Verdict.warn:
            report(f"warning: {found.said}. {found.hint}")
        if found.verdict is not Verdict.fail:
            continue
        plans.append(found.plan or found.said)
        if dry_run:
            report(f"would {found.plan}" if found.plan else f"cannot mend: {found.said}")
            continue
        await _mend(check, found, ground, report)
    return tuple(plans)


async def mend_check(
    settings: Settings,
    check: Check,
    *,
    facts: HostFacts | None = None,
    report: Report = lambda _: None,
) -> None:
    """Make the one check pass; nothing is done when it does. report: what is being done.

    Raises HostNotReady when it cannot be made to, Unauthorized without root.
    """
    ground = Ground(settings, facts or read_facts())
    found = await _look(check, ground)
    if found.verdict is Verdict.fail:
        await _mend(check, found, ground, report)


async def _mend(check: Check, found: Finding, ground: Ground, report: Report) -> None:
    if check.fix is None or not found.plan:
        raise HostNotReady(f"{_sentence(found.said)}.", hint=found.hint)
    if not ground.facts.is_root:
        raise Unauthorized(f"To {found.plan} needs root.", hint="Run the same command with sudo.")
    begun = time.monotonic()
    report(f"{found.plan} …")
    try:
        await check.fix(ground, report)
    except (IncusError, TimeoutError, OSError) as error:
        raise HostNotReady(
            f"To {found.plan} did not work: {error or 'it took too long'}.",
            hint="`taos doctor` shows what else is wrong.",
        ) from error
    after = await _look(check, ground)
    if after.verdict is Verdict.fail:
        raise HostNotReady(f"{_sentence(after.said)}, although it was mended.", hint=after.hint)
    report(f"  done in {time.monotonic() - begun:.1f} s: {after.said}")


async def _look(check: Check, ground: Ground, within: float = LOOK_WITHIN) -> Finding:
    try:
        async with asyncio.timeout(within):
            return await check.look(ground)
    except TimeoutError:
        return broken(f"looking took longer than {within:.0f} s")
    except TaosError as error:
        return broken(error.message.rstrip("."), hint=error.hint)
    except IncusError as error:
        return broken(f"Incus says: {error}")
    except PermissionError as error:
        return broken(f"you may not look at {error.filename}", hint="Run this with sudo.")


def _sentence(said: str) -> str:
    """With a capital at its start; names inside keep their own."""
    return said[:1].upper() + said[1:]
