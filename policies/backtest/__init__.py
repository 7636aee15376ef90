"""What a policy would have done with requests that were logged, and how surely that is known: one module for each of the levels. Pure."""
