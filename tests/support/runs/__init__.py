"""Sagas and runs that several tests share."""
