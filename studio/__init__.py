"""What happens to a take: detect, track, fit, export, review."""
