"""The front door of every listener: how many may be connected, and for how long."""
