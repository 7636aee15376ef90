"""Who changed and read what, and why each request went where it went: chained, verifiable, without prompts."""
