"""Backends behind one `generate` interface: the core values, the error tree and one file per backend."""
