"""`python -m tinyagentos.cli`."""

from tinyagentos.cli import main

main()
