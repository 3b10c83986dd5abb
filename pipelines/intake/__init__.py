"""Decisions about messages: new or known, applied or held, and the balance of the two. Pure.

`judge` decides for each message of a batch, in order, and keeps the account of the batch. It asks `remember` whether a
message is known; `arrival` prepares messages outside the writer's lock. `flow` bounds batches and detects faults of the
whole pipeline; `audit` checks the accounts of all batches.
"""
