"""The virtual studio: renders a multi-camera capture of the default body with exact ground truth."""

from studio.virtual.board import BoardTruth, render_board
from studio.virtual.capture import VirtualCapture, render_capture
from studio.virtual.maps import Maps, read_maps
from studio.virtual.truth import Truth

__all__ = ["BoardTruth", "Maps", "Truth", "VirtualCapture", "read_maps", "render_board", "render_capture"]
