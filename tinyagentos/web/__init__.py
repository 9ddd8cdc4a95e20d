"""The web pages: the same services as the API, for people."""
