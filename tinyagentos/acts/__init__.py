"""What needs root on the host, as a fixed list of acts, each done by a process of its own."""
