"""One file per page: register() makes it known under its address."""
