"""What holds for every test."""

from __future__ import annotations

import signal

# A shell starts what it runs in the background with SIGINT switched off, and children inherit
# that: a command that a test ends with Ctrl-C would not notice.
signal.signal(signal.SIGINT, signal.default_int_handler)
