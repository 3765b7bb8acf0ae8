"""What a body is: models, skeletons, keypoint sets. Knows nothing of cameras."""
