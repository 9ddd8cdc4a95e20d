"""taOS: deploys AI agents into Incus containers on the hardware people have at home."""

__version__ = "0.1.0"
