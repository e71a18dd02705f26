"""Training runs from their flags to their metrics."""
