"""Processes that take the messages of a real source, for tests that kill them."""
