"""Rate limits: requests and tokens per minute and requests at once, exact over everything that shares a store."""
