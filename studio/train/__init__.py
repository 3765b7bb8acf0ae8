"""Learning from virtual captures. Only tables and checkpoints leave this package; the capture path never imports it."""
