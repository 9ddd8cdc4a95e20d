"""Whole machines: a distribution of its own, booted with systemd as process 1."""
