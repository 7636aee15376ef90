"""The dialects clients speak, and server-sent events."""
