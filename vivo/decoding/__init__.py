"""Searches for captions. They know no model: a step function gives log-probabilities of the next token."""
