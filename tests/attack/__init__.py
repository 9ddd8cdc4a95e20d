"""Attacks on the real thing, one file for each attacker of SECURITY.md's threat model."""
