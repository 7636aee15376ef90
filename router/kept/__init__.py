"""What is kept between requests, encrypted: responses, conversations, answers under an idempotency key, opaque parts."""
