"""The virtual studio: renders a multi-camera capture with exact ground truth."""
