"""`studio demo`: a virtual capture, the whole job on it, and its error against the exact truth."""

from __future__ import annotations

import os
import time
from pathlib import Path

from studio import pipeline
from studio.evaluate import evaluate, table
from studio.take import Take
from studio.virtual import VirtualCapture, render_capture


def demo(out: Path, frames: int = 90, seed: int = 0, force: bool = False) -> Path:
    """Render into `out/capture`, capture into `out/take`; the report. What is there and fresh is not done again."""
    begun = time.monotonic()
    console = pipeline.console
    console.print(f"[bold]1/3[/] a virtual capture in {out / 'capture'}: 4 cameras, {frames} frames")
    capture = render_capture(out / "capture", VirtualCapture(cameras=4, frames=frames, seed=seed, workers=min(4, os.cpu_count() or 1)))
    console.print("[bold]2/3[/] the whole job on its videos")
    take = Take.of([capture / "videos"], capture / "cameras.yaml", out / "take").checked()
    take.save()
    take.note("take", take.warnings)
    config = pipeline.Config()
    for name in ("detect", "sync", "track", "fit", "export"):
        pipeline.step(take, name, getattr(config, name), force)
    console.print("[bold]3/3[/] against the truth, and the report")
    rows = evaluate(take, capture / "truth.safetensors")
    report = pipeline.step(take, "report", config.report, force)
    table(rows, console)
    console.print(f"[bold green]done[/] in {time.monotonic() - begun:.0f} s")
    console.print(
        f"  report     {report}   (open it in a browser)\n  animation  {take.folder / 'export'}\n  footage    {capture / 'videos'}"
    )
    return report
