"""Processes that outlive outages, as several tests use them."""
