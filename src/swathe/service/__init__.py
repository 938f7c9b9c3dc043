"""The sweep service: an HTTP API over the sweeps of one working folder, with tokens, roles and an audit log."""
