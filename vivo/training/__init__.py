"""The training engine: one visible loop over accelerate, and what it needs."""
