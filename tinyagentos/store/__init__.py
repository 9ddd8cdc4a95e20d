"""What taOS itself must remember: jobs and timings, in one SQLite file. Agents live in Incus."""
