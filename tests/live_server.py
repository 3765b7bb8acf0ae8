"""Network cameras for tests: they serve a generated video at its own pace, over HTTP as MPEG-TS or motion JPEG, or over RTSP."""

import base64
import io
import re
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
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


def transport_stream(frames: int, gop: int = 5, codec: str = "libx264") -> list[bytes]:
    """H.264 (or what `codec` encodes) in MPEG-TS, one piece of bytes a frame."""
    sink, pieces = io.BytesIO(), []
    with av.open(sink, "w", format="mpegts", options={"flush_packets": "1", "pat_period": "0.1"}) as out:
        quick = {"preset": "ultrafast", "tune": "zerolatency"} if codec == "libx264" else {"sc_threshold": "1000000000"}
        stream = out.add_stream(codec, rate=FPS, options={"g": str(gop), "bf": "0", **quick})
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
    """Serves pieces at `FPS` times `speed`; `breaks` are the numbers of the connections that are cut after so many pieces.

    With `finite` it says beforehand how long the answer is, as servers of files do.
    """

    def __init__(
        self,
        pieces: list[bytes],
        kind: str,
        breaks: dict[int, int] | None = None,
        skipped: frozenset[int] = frozenset(),
        speed: float = 1,
        finite: bool = False,
    ) -> None:
        self.served = 0
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number, camera.served = camera.served, camera.served + 1
                self.send_response(200)
                self.send_header("Content-Type", kind)
                if finite:
                    self.send_header("Content-Length", str(sum(len(p) for n, p in enumerate(pieces) if n not in skipped)))
                self.end_headers()
                begun = time.monotonic()
                try:
                    for n, piece in enumerate(pieces[: (breaks or {}).get(number, len(pieces))]):
                        time.sleep(max(0.0, begun + n / FPS / speed - time.monotonic()))
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


def access_units(frames: int, gop: int = 5) -> list[list[bytes]]:
    """H.264, the NAL units of each frame; every key frame brings its parameter sets."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = *SIZE, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FPS), Fraction(1, FPS)
    encoder.options = {"g": str(gop), "bf": "0", "preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1:annexb=1"}
    units = []
    for number in range(frames):
        image = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        image.pts = number
        units += [[n for n in re.split(b"\x00\x00\x00?\x01", bytes(packet)) if n] for packet in encoder.encode(image)]
    return units


def rtp(units: list[bytes], frame: int, sequence: int) -> Iterator[bytes]:
    """A frame as RTP packets (RFC 6184: whole NAL units, or fragments FU-A), each in an interleaved frame of RTSP (RFC 2326, 10.12)."""
    payloads = []
    for n, unit in enumerate(units):
        starts = range(1, len(unit), 1300) if len(unit) > 1300 else ()
        heads = [bytes([(unit[0] & 0xE0) | 28, (0x80 * (s == 1)) | (0x40 * (s + 1300 >= len(unit))) | (unit[0] & 31)]) for s in starts]
        parts = [head + unit[s : s + 1300] for head, s in zip(heads, starts)] or [unit]
        payloads += [(part, n == len(units) - 1 and p == len(parts) - 1) for p, part in enumerate(parts)]
    for k, (payload, last) in enumerate(payloads):
        packet = struct.pack(">BBHII", 0x80, 96 | (0x80 * last), (sequence + k) & 0xFFFF, 90000 * frame // FPS, 99) + payload
        yield struct.pack(">cBH", b"$", 0, len(packet)) + packet


class RtspCamera:
    """One H.264 track, interleaved over TCP; `breaks` as `Camera`'s."""

    def __init__(self, units: list[list[bytes]], breaks: dict[int, int] | None = None) -> None:
        self.played = 0
        camera, sets = self, ",".join(base64.b64encode(n).decode() for n in units[0] if n[0] & 31 in (7, 8))
        track = f"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\na=control:track1\r\n"
        sdp = f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\nc=IN IP4 0.0.0.0\r\n{track}"
        answers = {
            "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n", ""),
            "DESCRIBE": (f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n", sdp),
            "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
        }

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while request := self.rfile.readline().decode():
                    head = dict(line.lower().split(":", 1) for line in iter(lambda: self.rfile.readline().decode().strip(), ""))
                    more, body = answers.get(request.split()[0], ("Session: 1\r\n", ""))
                    self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {head['cseq'].strip()}\r\n{more}\r\n{body}".encode())
                    if request.startswith("PLAY"):
                        return self.play()

            def play(self) -> None:
                number, camera.played = camera.played, camera.played + 1
                begun, sequence = time.monotonic(), 0
                try:
                    for frame, unit in enumerate(units[: (breaks or {}).get(number, len(units))]):
                        time.sleep(max(0.0, begun + frame / FPS - time.monotonic()))
                        for packet in rtp(unit, frame, sequence):
                            self.wfile.write(packet)
                            sequence += 1
                except OSError:
                    pass

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"rtsp://user:secret@127.0.0.1:{self._server.server_address[1]}/track"

    def __enter__(self) -> "RtspCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def rtsp_camera(seconds: float = 8, **more: object) -> RtspCamera:
    return RtspCamera(access_units(int(seconds * FPS)), **more)  # type: ignore[arg-type]
