"""Aggregates, engines and services that several tests of the store share."""
