"""One request's attempts: which comes next, what each may cost, what it says."""
