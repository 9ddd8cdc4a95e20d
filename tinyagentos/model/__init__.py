"""The words of taOS as frozen values: they do no I/O and import nothing but each other."""
