"""What is tried beside what the rules decide: canaries with their guards, shadows, and pairs of answers."""
