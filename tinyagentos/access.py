"""Who may use the web pages: one password, set at the first visit, and sessions.

The first password needs a code that only somebody with access to the machine can get: otherwise
whoever on the network comes first would own the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tinyagentos.model.errors import Conflict, InvalidInput, TooManyTries, Unauthorized
from tinyagentos.net.limits import network_of
from tinyagentos.store.access import AccessTable

COOKIE = "taos_session"
# A browser that was logged in before; it says so at the login only.
DEVICE_COOKIE = "taos_device"
DEVICE_LASTS = timedelta(days=365)
PASSWORD, CODE = "password", "setup code"
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
SESSION_LASTS = timedelta(days=30)
RENEW_AFTER = timedelta(days=1)
CODE_LASTS = timedelta(hours=24)
LEAST_LENGTH, MOST_LENGTH = 10, 200
# 16 MiB for each check (OWASP's row for N=2^14), so that a small board can afford it.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 5
SCRYPT_MEMORY = 64 << 20
TRIES = 5
TRIES_WITHIN = timedelta(minutes=10)
MOST_CALLERS = 1000
# So many wrong tries from anywhere are no household's: from then on one try in PACE is looked at.
ALL_TRIES = 30
PACE = timedelta(seconds=10)
# Without letters and digits that are mistaken for each other.
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class SetupCode:
    """What a first visitor shows to set the password; it works once."""

    code: str
    until: datetime

    @property
    def path(self) -> str:
        """The page that takes it."""
        return f"/setup?code={self.code}"


@dataclass
class Tries:
    """Wrong answers by the caller's network, the latest MOST_CALLERS networks, and by anybody.

    A caller without an address came over the Unix socket, which is the owner's: it is not counted.
    A browser that was logged in before has tries of its own, so nobody else's wrong ones keep it
    out; when they are used up it is a caller like any other.
    """

    _wrong: OrderedDict[str, list[datetime]] = field(default_factory=OrderedDict)
    _of_devices: OrderedDict[str, list[datetime]] = field(default_factory=OrderedDict)
    _all: deque[datetime] = field(default_factory=lambda: deque(maxlen=ALL_TRIES))
    _next: datetime | None = None

    def check(self, caller: str, now: datetime, device: str = "") -> None:
        """Return when the caller may try, else raise TooManyTries.

        device: the browser's name, if it was logged in before.
        """
        if not caller or self._has_own(device, now):
            return
        recent = _recent(self._wrong.get(network_of(caller), ()), now)
        if len(recent) >= TRIES:
            wait = recent[-TRIES] + TRIES_WITHIN - now
            raise TooManyTries(
                "Too many wrong tries came from your address.",
                hint=f"Try again in {wait.total_seconds() / 60:.0f} min, "
                "or set the password on the machine with `taos web password`.",
            )
        is_attack = len(self._all) == ALL_TRIES and self._all[0] > now - TRIES_WITHIN
        if not is_attack:
            return
        if self._next and now < self._next:
            raise TooManyTries(
                "Somebody is guessing passwords, so they are looked at slowly.",
                hint=f"Try again in {PACE.total_seconds():.0f} s, or on the machine itself.",
            )
        self._next = now + PACE

    def note(self, caller: str, now: datetime, device: str = "") -> None:
        """The caller was wrong."""
        if not caller:
            return
        if self._has_own(device, now):
            _keep(self._of_devices, device, now)
            return
        self._all.append(now)
        _keep(self._wrong, network_of(caller), now)

    def forget(self, caller: str, device: str = "") -> None:
        """The caller was right."""
        self._wrong.pop(network_of(caller), None)
        self._of_devices.pop(device, None)

    def _has_own(self, device: str, now: datetime) -> bool:
        """Whether the browser was logged in before and has tries of its own left."""
        return bool(device) and len(_recent(self._of_devices.get(device, ()), now)) < TRIES


def _recent(tries: Iterable[datetime], now: datetime) -> list[datetime]:
    return [at for at in tries if at > now - TRIES_WITHIN]


def _keep(tries: OrderedDict[str, list[datetime]], whose: str, now: datetime) -> None:
    """Add a wrong try to the latest of those who made any."""
    tries[whose] = [*tries.pop(whose, ()), now][-TRIES:]
    while len(tries) > MOST_CALLERS:
        tries.popitem(last=False)


class Access:
    """The password and the sessions of this server."""

    def __init__(self, table: AccessTable, now: Clock = lambda: datetime.now(UTC)) -> None:
        self._table = table
        self._now = now
        self._tries = Tries()
        # Called with the hash of a session that ended, or nothing when all did.
        self.on_end: Callable[[str], None] = lambda _: None
        self._waiting: dict[str, set[asyncio.Event]] = {}
        # One at a time: guesses by many at once take neither all memory nor all processors.
        self._one = asyncio.Lock()

    @property
    def has_password(self) -> bool:
        """Whether the first visit has been."""
        return bool(self._table.find_secret(PASSWORD, self._now()))

    def new_code(self) -> SetupCode:
        """A code for the first visit; one made before stops working. Conflict when it has been."""
        if self.has_password:
            raise Conflict(
                "The web password is set already.", hint="`taos web password` sets another one."
            )
        code = "-".join("".join(secrets.choice(LETTERS) for _ in range(5)) for _ in range(2))
        until = self._now() + CODE_LASTS
        self._table.put_secret(CODE, digest(code), until)
        return SetupCode(code, until)

    async def set_first_password(self, code: str, password: str, caller: str) -> str:
        """Set the password with the code; the token of a session."""
        self._tries.check(caller, self._now())
        if self.has_password:
            raise Conflict("The web password is set already.", hint="Log in with it.")
        kept = self._table.find_secret(CODE, self._now())
        if not kept or not hmac.compare_digest(kept, digest(code.strip().lower())):
            self._tries.note(caller, self._now())
            raise Unauthorized(
                "This setup code is not right, or it is too old.",
                hint="Run `taos web link` on the machine for a new one.",
            )
        check_password(password)
        self._table.drop_secret(CODE)
        await self.set_password(password)
        return self._new_session()

    async def set_password(self, password: str) -> None:
        """Set the password; every session ends."""
        check_password(password)
        salt = secrets.token_bytes(16)
        async with self._one:
            key = await asyncio.to_thread(derive, password, salt)
        # The password last: when one of these fails, nobody is logged in by the old one.
        self._table.drop_sessions()
        self._tell_end("")
        self._table.drop_secret(CODE)
        self._table.put_secret(PASSWORD, f"{salt.hex()}:{key.hex()}", FOREVER)

    async def log_in(self, password: str, caller: str, device: str = "") -> str:
        """The token of a new session; Unauthorized when the password is wrong.

        device: what new_device() gave the browser. Raises TooManyTries when too many wrong ones
        came from the caller's address, or from everywhere.
        """
        async with self._one:
            known = self._known_device(device)
            self._tries.check(caller, self._now(), known)
            salt, _, kept = self._table.find_secret(PASSWORD, self._now()).partition(":")
            given = await asyncio.to_thread(derive, password[:MOST_LENGTH], bytes.fromhex(salt))
            if not kept or not hmac.compare_digest(given.hex(), kept):
                self._tries.note(caller, self._now(), known)
                raise Unauthorized(
                    "That is not the password.",
                    hint="Forgotten? `taos web password` on the machine sets another one.",
                )
            self._tries.forget(caller, known)
        return self._new_session()

    def new_device(self) -> str:
        """A name for a browser that is logged in, signed; it counts until the password changes."""
        name = secrets.token_urlsafe(12)
        return f"{name}.{self._sign_device(name)}"

    def _known_device(self, given: str) -> str:
        """The name of the browser if it is signed by the password of now, else nothing."""
        name, _, signature = given[:MOST_LENGTH].partition(".")
        is_ours = hmac.compare_digest(signature.encode(), self._sign_device(name).encode())
        return name if name and is_ours and self.has_password else ""

    def _sign_device(self, name: str) -> str:
        # What is kept of the password has a random salt, so no signature outlives the password.
        key = self._table.find_secret(PASSWORD, self._now())
        return hmac.new(key.encode(), f"device {name}".encode(), hashlib.sha256).hexdigest()

    def is_session(self, token: str) -> bool:
        """Whether the token is of a session that lasts; using it makes it last longer."""
        if not token or len(token) > MOST_LENGTH:
            return False
        now = self._now()
        until = self._table.find_session(digest(token), now)
        if until is None:
            return False
        if until - now < SESSION_LASTS - RENEW_AFTER:
            self._table.put_session(digest(token), now + SESSION_LASTS, now)
        return True

    def log_out(self, token: str) -> None:
        """End the session."""
        self._table.drop_session(digest(token))
        self._tell_end(digest(token))

    async def wait_end(self, session: str) -> None:
        """Return when somebody ends the session of that hash."""
        if self._table.find_session(session, self._now()) is None:
            return
        ended = asyncio.Event()
        waiting = self._waiting.setdefault(session, set())
        waiting.add(ended)
        try:
            await ended.wait()
        finally:
            waiting.discard(ended)
            if not waiting:
                self._waiting.pop(session, None)

    def _tell_end(self, session: str) -> None:
        """Tell who waits that the session ended; every session when it has no name."""
        for one, waiting in self._waiting.items():
            if session in ("", one):
                for ended in waiting:
                    ended.set()
        self.on_end(session)

    def _new_session(self) -> str:
        token = secrets.token_urlsafe(32)
        now = self._now()
        self._table.put_session(digest(token), now + SESSION_LASTS, now)
        return token


def check_password(password: str) -> None:
    """Return when it can be the password, else raise InvalidInput."""
    if not LEAST_LENGTH <= len(password) <= MOST_LENGTH:
        raise InvalidInput(
            f"The password has {len(password)} characters.",
            hint=f"Take {LEAST_LENGTH} to {MOST_LENGTH}; a few words are good.",
        )


def derive(password: str, salt: bytes) -> bytes:
    """The password's key; slow on purpose."""
    return hashlib.scrypt(
        password.encode(), salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, maxmem=SCRYPT_MEMORY
    )


def digest(token: str) -> str:
    """What is kept of a random token."""
    # A head may have bytes that are no UTF-8; they come as surrogates.
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
