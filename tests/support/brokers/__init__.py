"""Message brokers for tests, and a proxy that cuts a client off from its broker."""
