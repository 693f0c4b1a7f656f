"""One file per op, same name as its kernel."""
