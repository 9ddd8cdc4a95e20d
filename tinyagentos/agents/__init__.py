"""Agents: decide how to deploy one, deploy it until it answers, and look after it."""
