"""Definitions of pipelines, as users write them, and their checks. Pure."""
