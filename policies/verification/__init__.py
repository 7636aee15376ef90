"""Whether a cheap model's answer will do: a pure verifier. Signals of one answer in, a verdict with reason codes out (`verify`)."""
