"""Logs of daemons that an agent can fill are emptied, while they are written to."""

from __future__ import annotations

import os
from pathlib import Path

from tinyagentos.host.daemon_logs import shorten_logs


def test_a_large_log_is_emptied_and_its_end_kept(tmp_path: Path) -> None:
    instance = tmp_path / "taos_hello"
    instance.mkdir()
    large, small = instance / "proxy.model.log", tmp_path / "incusd.log"
    small.write_text("a few words")
    (tmp_path / "link.log").symlink_to(small)
    with large.open("wb") as daemon:  # as a proxy's, that does not append
        daemon.write(b"Warning: Failed to connect\n" * 10_000)
        daemon.flush()
        assert shorten_logs([tmp_path, tmp_path], 100_000, 1000) == (large,)
        assert large.stat().st_size == 0
        assert (instance / "proxy.model.log.1").read_bytes().endswith(b"to connect\n")
        daemon.write(b"more\n")
        daemon.flush()
        os.fsync(daemon.fileno())
    assert large.stat().st_blocks * 512 < 100_000, "the hole takes no space"
    assert shorten_logs([tmp_path, tmp_path / "none"], 100_000, 1000) == ()
    assert small.read_text() == "a few words"
    assert (instance / "proxy.model.log.1").stat().st_size == 1000
