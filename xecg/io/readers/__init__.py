"""One file per format: bytes to facts, facts to decisions, bytes and decisions to arrays."""
