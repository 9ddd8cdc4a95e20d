"""Signing and verifying channels with TUF; nothing else imports the TUF library.

keys.py makes and rotates keys, repository.py signs what a channel offers, channel.py reads it as a
client does.
"""
