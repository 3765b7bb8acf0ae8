"""Networks of our own, one a file: architecture and decoding alone. How they learn is `studio/train`'s business; a checkpoint and its
card (`studio.nets.checkpoint`) are all that crosses from there to here.
"""
