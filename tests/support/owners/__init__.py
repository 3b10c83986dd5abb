"""Owners of partitions in processes of their own, and the record of their commits."""
