"""A calibrated camera rig from videos. Knows nothing of bodies."""
