"""Testing sagas without a server."""
