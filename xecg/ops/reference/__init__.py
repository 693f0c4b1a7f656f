"""Plain PyTorch: the definition of every op, and the fallback where nothing faster is built."""
