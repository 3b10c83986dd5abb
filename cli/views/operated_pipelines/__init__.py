"""Views of `amends pipeline`: status, held messages and audits. Pure."""
