"""The solver on its reference scene: speed and error, beside Adam and L-BFGS on the same objective in the same run.

    python benchmarks/solver.py [--frames 1008] [--device cuda] [--out benchmarks/solver.json]

Eight cameras see 133 keypoints (1.5 px noise over confidence, 5 % outliers, 20 % missing) of 178 degrees of freedom; the truth comes
from `solver_scene`, which is numpy alone. Times are CPU time of the process unless said: wall times mean something on an idle machine
only. `--device cuda` solves on the CPU and on the GPU, compares the two and leaves out the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import pi
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from solver_scene import TORSO, E, J, Scene, scene
from torch import Tensor

from calibration.triangulate import triangulate
from rigs import rotation
from rigs.anatomy import anatomy
from rigs.body import Body, Posed, Skin
from studio.fit import pulls
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors, Smoothness
from studio.fit.solve import Problem, nested, settle, settle_shape
from studio.fit.state import State
from studio.fit.windows import faded, windows

SCHEDULE = ((40.0, 1), (10.0, 2))
"""Kernels in standard deviations, and iterations under each."""


class Setting:
    """A scene made ready for the solver on one device in one precision."""

    def __init__(self, made: Scene, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.made, self.device, self.dtype = made, device, dtype
        body: Body = made.body.to(device, dtype)
        self.model = Model(body, body.skin)
        wide = anatomy(made.body).to(device, dtype)
        self.priors = Priors(JointPrior(wide, spread=1 / pi), ExpressionPrior(1.0, 1e3))  # standard normal: radians and expression
        precision = torch.tensor([1 / 0.004**2] * 3 + [1 / 0.015**2] * (3 * J) + [1 / 0.1**2] * E)  # m, rad, 1 a frame^2
        self.smoothness = Smoothness(precision.to(device, dtype))
        self.free = torch.ones(self.model.unknowns, dtype=torch.bool, device=device)
        self.mean = torch.zeros(len(body.shape_names), device=device, dtype=dtype)
        self.truth = torch.from_numpy(made.points).to(device, dtype)

    def views(self, frames: slice) -> pulls.Views:
        """What the cameras see of some frames."""
        seen, sigma = torch.from_numpy(self.made.pixels[:, frames]), torch.from_numpy(self.made.sigma[:, frames])
        return pulls.Views.undistorted(self.made.cameras, seen, sigma, self.dtype).to(self.device)

    def problem(self, views: pulls.Views, kernel: float, shape: Tensor) -> Problem:
        """The objective under one kernel."""
        return Problem(self.model, shape, lambda x, f: pulls.keypoints(x, views[f], kernel), self.priors, self.free)

    def start(self, frames: slice, joints: Tensor) -> State:
        """The torso turned onto its triangulated joints, everything else at rest."""
        pick = list(TORSO)
        seen = torch.from_numpy(self.made.pixels[:, frames][:, :, pick]).float()
        sigma = torch.from_numpy(self.made.sigma[:, frames][:, :, pick]).float()
        x = (
            triangulate(self.made.cameras, seen.flatten(1, 2), sigma.flatten(1, 2))
            .points.view(-1, len(pick), 3)
            .to(self.device, self.dtype)
        )
        x = torch.where(torch.isfinite(x), x, x.nanmean(1, keepdim=True))
        a = joints[pick]
        R = rotation.project_to_rotation((x - x.mean(1, keepdim=True)).mT @ (a - a.mean(0)))
        whole = torch.eye(3, dtype=self.dtype, device=self.device).repeat(len(x), J, 1, 1)
        whole[:, 0] = R
        return State(whole, x.mean(1) - (R @ a.mean(0)[:, None])[..., 0], x.new_zeros(len(x), E))

    def solved(self, frames: slice, shape: Tensor) -> State:
        """One stretch from pixels to poses."""
        views = self.views(frames)
        problems = [(self.problem(views, kernel, shape), n) for kernel, n in SCHEDULE]
        joints = self.model.body.joints + self.model.body.joint_shape_basis @ shape
        return nested(problems, self.start(frames, joints), self.smoothness, fine=4, inner=40)

    def error(self, state: State, shape: Tensor, frames: slice = slice(None)) -> float:
        """Mean distance to the truth over all keypoints, mm."""
        return 1000 * float((self.model.place(state, shape).points - self.truth[frames]).norm(dim=-1).mean())


def timed(work: Callable[[], object], repeats: int = 2) -> tuple[float, float]:
    """Best CPU and wall time, s."""
    spent = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        spent.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(c for c, _ in spent), min(w for _, w in spent)


def known_shape(s: Setting, frames: int) -> dict[str, float]:
    """Whole sequence on one thread; then in two windows on two threads, and how far these are from the whole."""
    whole = s.solved(slice(0, frames), s.mean)
    cpu, wall = timed(lambda: s.solved(slice(0, frames), s.mean), 3)
    cuts = list(windows(frames, -(-frames // 2), 24))

    def side_by_side() -> State:
        with ThreadPoolExecutor(2) as pool:
            return faded(list(pool.map(lambda cut: (s.solved(cut[0], s.mean), cut[1]), cuts)))

    cpu2, wall2 = timed(side_by_side, 3)
    off = s.model.place(whole, s.mean).points - s.model.place(side_by_side(), s.mean).points
    apart, seam = off.norm(dim=-1), -(-frames // 2)
    jump = off[seam - 16 : seam + 16].diff(dim=0).norm(dim=-1).mean(1).max()  # where it is worst
    return {
        "error_mm": round(s.error(whole, s.mean), 3),
        "cpu_s": round(cpu, 2),
        "wall_s": round(wall, 2),
        "frames_per_cpu_second": round(frames / cpu),
        "two_windows_wall_s": round(wall2, 2),
        "two_windows_frames_per_second": round(frames / wall2),
        "two_windows_cpu_s": round(cpu2, 2),
        "windows_apart_mm_mean": round(1000 * float(apart.mean()), 4),
        "windows_apart_mm_worst_frame": round(1000 * float(apart.mean(1).max()), 4),
        "windows_jump_at_the_seam_mm": round(1000 * float(jump), 4),
    }


def unknown_shape(made: Scene, frames: int, key_frames: int = 48) -> dict[str, float]:
    """Bone lengths 8 % off: solved on key frames first, then the sequence; beside the same with the true lengths."""
    s = Setting(made)
    true = torch.from_numpy(made.shape).float() / 0.08

    def lengths() -> Tensor:
        pick = torch.linspace(0, frames - 1, key_frames).round().long()
        views = s.views(slice(0, frames))[pick]
        state = s.start(slice(0, frames), s.model.body.joints)[pick]
        for kernel, n in SCHEDULE:
            state, _ = settle(s.problem(views, kernel, s.mean), state, n, damping=1e-2)
        return settle_shape(s.problem(views, 10.0, s.mean), state, 10, independent=float(key_frames))[1]

    cpu_shape, _ = timed(lengths, 1)
    shape = lengths()
    whole = slice(0, frames)
    cpu, _ = timed(lambda: s.solved(whole, shape), 2)
    return {
        "error_mm": round(s.error(s.solved(whole, shape), shape, whole), 3),
        "error_with_true_lengths_mm": round(s.error(s.solved(whole, true), true, whole), 3),
        "error_with_template_lengths_mm": round(s.error(s.solved(whole, s.mean), s.mean, whole), 3),
        "lengths_off_percent_before": round(8 * float(true.abs().mean()), 2),
        "lengths_off_percent_after": round(8 * float((shape - true).abs().mean()), 2),
        "cpu_s_lengths": round(cpu_shape, 2),
        "cpu_s_total": round(cpu_shape + cpu, 2),
        "cpu_over_known_lengths": round((cpu_shape + cpu) / cpu, 2),
    }


def descended(s: Setting, frames: int, method: str, evaluations: int, vertices: int = 0) -> dict[str, Any]:
    """Adam or L-BFGS on the same objective by autograd through the studio's own kinematics, the kernel narrowing as in the solver.

    With `vertices`, a mesh of so many is skinned in every evaluation, and the keypoints are read from it, as SMPLify-X does.
    """
    whole = slice(0, frames)
    views, first = s.views(whole), s.start(whole, s.model.body.joints)
    mesh = meshed(s.made.body, vertices) if vertices else None
    step = torch.zeros(frames, s.model.unknowns, requires_grad=True)
    rate = torch.cat([torch.full((3,), 0.2), torch.ones(3 * J), torch.full((E,), 2.0)])  # m, rad, expression: each at its own pace

    def loss(kernel: float) -> Tensor:
        state = turned(first, step * rate)
        if mesh is None:
            x = s.model.place(state, s.mean).x
        else:
            x = skinned(s.made.body, mesh, state).permute(2, 1, 0)[:, : s.truth.shape[1]]
        return (missed(x, views, kernel) + s.priors.cost(state)).sum() + s.smoothness.cost(state).sum()

    kernel = lambda done: max(10.0, 100.0 * 0.5 ** (6 * done))  # noqa: E731
    count = 0
    cpu = time.process_time()
    if method == "adam":
        optimiser = torch.optim.Adam([step], lr=0.05)
        for count in range(1, evaluations + 1):
            done = count / evaluations
            optimiser.param_groups[0]["lr"] = 0.05 * 0.02 ** max(0.0, done - 0.3)
            optimiser.zero_grad()
            loss(kernel(done)).backward()
            optimiser.step()
    else:
        while count < evaluations:
            optimiser = torch.optim.LBFGS([step], max_iter=25, history_size=20, line_search_fn="strong_wolfe")

            def closure() -> Tensor:
                nonlocal count
                count += 1
                optimiser.zero_grad()  # noqa: B023
                value = loss(kernel(count / evaluations))
                value.backward()
                return value

            optimiser.step(closure)
    spent = time.process_time() - cpu
    return {
        "evaluations": count,
        "error_mm": finite(s.error(turned(first, step.detach() * rate), s.mean, whole)),
        "cpu_s": round(spent, 2),
    }


def finite(error: float) -> float | None:
    """Rounded; None where the method diverged."""
    return round(error, 2) if error == error else None


def missed(x: Tensor, views: pulls.Views, kernel: float) -> Tensor:
    """The robust cost of points (3, K, T) a frame, as `pulls.keypoints` has it, for automatic differentiation."""
    h = torch.einsum("cij,jkt->ickt", views.R, x) + views.translation.T[:, :, None, None]
    square = (h[:2] / h[2].clamp_min(0.05) - views.plane).square().sum(0) * views.precision.square()
    return 0.5 * (square * kernel**2 / (kernel**2 + square)).sum((0, 1))


def same_objective(s: Setting) -> None:
    """The two costs must be one."""
    views, state = s.views(slice(0, 8)), s.start(slice(0, 8), s.model.body.joints)
    placed = s.model.place(state, s.mean)
    assert torch.allclose(missed(placed.x, views, 10.0), pulls.keypoints(placed.points, views, 10.0).cost, rtol=1e-4)


def turned(first: State, step: Tensor) -> State:
    """`State.moved` without its limit, so that gradients pass."""
    return first.moved(step, limit=1e6)


def meshed(body: Body, vertices: int) -> Skin:
    """The same keypoints inside a mesh of many vertices, four carriers and pose correctives each: what a full-mesh method skins."""
    g = torch.Generator().manual_seed(0)
    skin, extra = body.skin, vertices - len(body.skin)
    again = torch.randint(0, len(skin), (extra,), generator=g)
    weights = torch.zeros(extra, J).scatter_(1, torch.randint(0, J, (extra, 4), generator=g), 0.25)
    bases = (torch.cat([x, x[again]]) for x in (skin.rest, skin.shape_basis, skin.expression_basis))
    correctives = 1e-4 * torch.randn(vertices, 3, 9 * (J - 1), generator=g)
    correctives[: len(skin)] = 0  # the keypoints stay as they are
    return Skin(*bases, torch.cat([skin.weights, weights / weights.sum(1, keepdim=True)]), correctives)


def skinned(body: Body, mesh: Skin, state: State) -> Tensor:
    """All vertices (T, V, 3) by linear blend skinning."""
    shaped = body.shaped(torch.zeros(len(body.shape_names)))
    R, p = body.skeleton.forward(state.R, shaped.joints, state.root)
    return Posed(shaped, state.R, R, p, state.expression).points(mesh)


def beside_descent(s: Setting, frames: int) -> dict[str, object]:
    """What gradient descent needs for the error that it reaches, and what the solver needs for that error."""
    whole = slice(0, frames)
    adam, lbfgs = descended(s, frames, "adam", 200), descended(s, frames, "lbfgs", 200)
    few = 8
    mesh = descended(s, few, "lbfgs", 30, vertices=10475)
    views = s.views(whole)
    start = s.start(whole, s.model.body.joints)
    picked = torch.cat([torch.arange(0, frames - 1, 2), torch.tensor([frames - 1])])
    cheapest = None
    for n in range(1, len(SCHEDULE) + 1):  # the solver's own first stages, on every other frame, until they are as good

        def begun(n: int = n) -> State:
            state = start[picked]
            for kernel, iterations in SCHEDULE[:n]:
                state, _ = settle(s.problem(views, kernel, s.mean).of(picked), state, iterations, damping=1e-2)
            return state.between(picked, frames)

        error = s.error(begun(), s.mean, whole)
        if error <= adam["error_mm"]:
            cheapest = {"stages": n, "error_mm": round(error, 2), "cpu_s": round(timed(begun, 3)[0], 3)}
            break
    full, _ = timed(lambda: s.solved(whole, s.mean))
    rows: dict[str, object] = {"frames": frames, "adam": adam, "lbfgs": lbfgs, "lbfgs_full_mesh": mesh | {"frames": few, "vertices": 10475}}
    rows["solver_whole"] = {"error_mm": round(s.error(s.solved(whole, s.mean), s.mean, whole), 2), "cpu_s": round(full, 3)}
    rows["adam_cpu_over_solver_whole"] = round(adam["cpu_s"] / full, 1)
    scaled = mesh["cpu_s"] / few / mesh["evaluations"] * 200
    rows["full_mesh_lbfgs_of_200_evaluations_over_solver_a_frame"] = round(scaled / (full / frames))
    if cheapest:
        rows["solver_at_adams_error"] = cheapest
        rows["adam_cpu_over_solver_at_its_error"] = round(adam["cpu_s"] / cheapest["cpu_s"], 1)
    return rows


def precision(made: Scene, frames: int) -> dict[str, float]:
    """Single against double precision on the same frames, and the error without noise, mm."""
    whole = slice(0, frames)
    single, double = Setting(made), Setting(made, dtype=torch.float64)
    a = single.model.place(single.solved(whole, single.mean), single.mean).points
    b = double.model.place(double.solved(whole, double.mean), double.mean).points
    return {"single_from_double_mm_mean": round(1000 * float((a - b).norm(dim=-1).mean()), 5)}


def on_gpu(made: Scene, frames: int, device: str) -> dict[str, float]:
    """The same on another device: how far the two results are apart, and wall time."""
    whole = slice(0, frames)
    here, there = Setting(made), Setting(made, device)
    a = here.model.place(here.solved(whole, here.mean), here.mean).points

    def once() -> State:
        state = there.solved(whole, there.mean)
        torch.cuda.synchronize()
        return state

    b = there.model.place(once(), there.mean).points.cpu()
    _, wall = timed(once, 3)
    apart = 1000 * float((a - b).norm(dim=-1).mean())
    return {"apart_mm_mean": round(apart, 4), "equal": apart < 0.05, "wall_s": round(wall, 3), "frames_per_second": round(frames / wall)}


def of_other_seeds(seeds: range, frames: int) -> dict[str, object]:
    """Other people, motions, noise: the same figures."""
    rows: dict[str, object] = {}
    for seed in seeds:
        known = known_shape(Setting(scene(frames, seed)), frames)
        unknown = unknown_shape(scene(frames, seed, unlike=0.08), frames)
        rows[str(seed)] = {k: known[k] for k in ("error_mm", "frames_per_cpu_second", "windows_jump_at_the_seam_mm")} | {
            "error_mm_lengths_unknown": unknown["error_mm"], "cpu_over_known_lengths": unknown["cpu_over_known_lengths"]
        }  # fmt: skip
    return rows


def measured(frames: int, device: str) -> dict[str, object]:
    torch.set_num_threads(1)
    made = scene(frames)
    rows: dict[str, object] = {
        "scene": {"cameras": 8, "keypoints": 133, "frames": frames, "unknowns": 178, "outliers": 0.05, "missing": 0.2}
    }
    rows |= {"machine": platform.machine(), "torch": torch.__version__}
    if device != "cpu":
        return rows | {device: torch.cuda.get_device_name(device), "on_device": on_gpu(made, frames, device)}
    s = Setting(made)
    same_objective(s)
    rows["known_lengths"] = known_shape(s, frames)
    rows["unknown_lengths"] = unknown_shape(scene(frames, unlike=0.08), frames)
    rows["other_seeds"] = of_other_seeds(range(1, 3), frames)
    rows["precision"] = precision(made, min(frames, 250))
    rows["descent"] = beside_descent(Setting(scene(min(frames, 252))), min(frames, 252))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1008)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(measured(options.frames, options.device), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
