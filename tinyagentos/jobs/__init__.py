"""Durable jobs: named, timed steps that survive a crash, can be cancelled and are watched."""
