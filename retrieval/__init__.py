"""Documents: parsing, chunks, indexes, hits and citations that can be checked."""
