"""What holds for every test."""

from __future__ import annotations

import os
import signal

from tinyagentos.config import PROGRAM_VARIABLE

# A shell starts what it runs in the background with SIGINT switched off, and children inherit
# that: a command that a test ends with Ctrl-C would not notice.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Who began the tests, and how, is in no hint that they expect.
for name in (PROGRAM_VARIABLE, "SUDO_UID"):
    os.environ.pop(name, None)
