"""The model gateway: agents ask models through the host, which has the keys."""
