"""How much an agent may ask of the gateway, and how long anything may take.

An agent is thought hostile: it must not use up the memory, the open files or the time of the
server that it shares with the others.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Sizes are in bytes, times in seconds."""

    # What one agent may ask at the same time.
    at_once: int = 16
    # A question of OpenClaw has some 60 kB; pictures, which are Base64 in it, some MB each.
    question_bytes: int = 16 * MIB
    # A stream has some 250 bytes for each token.
    answer_bytes: int = 64 * MIB
    # What questions and whole answers under way may weigh in memory: one agent's, and all.
    agent_bytes: int = 100 * MIB
    host_bytes: int = 200 * MIB
    read_within: float = 60.0
    connect_within: float = 10.0
    # A model that thinks says nothing for minutes.
    silent_within: float = 300.0
    # Connections of one agent, which at most half need for their questions, and of all.
    connections_each: int = 32
    connections: int = 4096
    # Until the whole head of the first request is there, and between two requests.
    idle_within: float = 30.0
    close_within: float = 2.0


USUAL = Limits()
