"""Decisions about messages: new or known, applied or held, and the balance of the two. Pure."""
