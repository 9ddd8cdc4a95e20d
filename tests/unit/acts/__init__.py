"""Tests of tinyagentos.acts."""
