"""Images on this host: which are here, how they come in, how they are made ready for use."""
