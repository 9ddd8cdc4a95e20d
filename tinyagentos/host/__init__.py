"""The host: what it is, what is wrong with it, and how it becomes able to run agents."""
