#!/usr/bin/python3
"""What a person's own programs could put into a checkout: it tells when root ran it."""

import os
from pathlib import Path

if os.geteuid() == 0:
    Path("/home/ann/was-root").touch()
