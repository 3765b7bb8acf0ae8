"""A network camera for tests: serves a generated video over HTTP at its own pace, as MPEG-TS (H.264) or as motion JPEG."""

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import cv2
import numpy as np

SIZE, FPS = (160, 120), 20


def picture(number: int) -> np.ndarray:
    """RGB image whose brightness tells its number."""
    image = np.full((SIZE[1], SIZE[0], 3), 40 + 4 * (number % 40), np.uint8)
    image[:20, : 4 * (number % 40) + 1] = 255
    return image


def transport_stream(frames: int, gop: int = 5) -> list[bytes]:
    """H.264 in MPEG-TS, one piece of bytes a frame."""
    sink, pieces = io.BytesIO(), []
    with av.open(sink, "w", format="mpegts", options={"flush_packets": "1", "pat_period": "0.1"}) as out:
        stream = out.add_stream("libx264", rate=FPS, options={"g": str(gop), "bf": "0", "preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
            pieces.append(sink.getvalue()[sum(map(len, pieces)) :])
        out.mux(stream.encode(None))
    return [*pieces, sink.getvalue()[sum(map(len, pieces)) :]]


def motion_jpeg(frames: int) -> list[bytes]:
    """The parts of a multipart/x-mixed-replace answer."""
    parts = []
    for number in range(frames):
        jpeg = cv2.imencode(".jpg", picture(number)[..., ::-1])[1].tobytes()
        parts.append(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))
    return parts


class Camera:
    """Serves pieces at `FPS`; `breaks` are the numbers of the connections that are cut after so many pieces."""

    def __init__(self, pieces: list[bytes], kind: str, breaks: dict[int, int] | None = None, skipped: frozenset[int] = frozenset()) -> None:
        self.served = 0
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number, camera.served = camera.served, camera.served + 1
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                begun = time.monotonic()
                try:
                    for n, piece in enumerate(pieces[: (breaks or {}).get(number, len(pieces))]):
                        time.sleep(max(0.0, begun + n / FPS - time.monotonic()))
                        if n not in skipped:
                            self.wfile.write(piece)
                            self.wfile.flush()
                except OSError:
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/video"

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def ts_camera(seconds: float = 8, **more: object) -> Camera:
    return Camera(transport_stream(int(seconds * FPS)), "video/mp2t", **more)  # type: ignore[arg-type]


def jpeg_camera(seconds: float = 8, **more: object) -> Camera:
    return Camera(motion_jpeg(int(seconds * FPS)), "multipart/x-mixed-replace; boundary=frame", **more)  # type: ignore[arg-type]
