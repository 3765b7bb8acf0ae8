"""The recovery network's eyes: a trunk that learns to see in images what keypoints and masks told, before the same regressor.

Images are rendered crops (`studio.train.scenes`) brought into the upright window; the regressor is that of the sampled people and stays as
it is, so a few hundred images are enough to begin with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from rigs import rotation
from studio.nets.recovery import CROP, STEPS, Recovery
from studio.nets.shape import WINDOW, Sight
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.scenes import SceneConfig, Scenes, held_out
from studio.train.shape import joint_rows
from studio.train.shards import cached

CONFIG = SceneConfig(size=64, cameras=4, maps=())
COUNTS = {"small": 192, "full": 768}
"""Groups of four crops each."""
STEPS_OF = {"small": 60, "full": 300}
BATCH = 32


def windows(scenes: Scenes) -> tuple[UInt8[Tensor, "N 3 64 64"], dict[str, Tensor]]:
    """Every crop of every sample on its own in the upright window around the root joint, and its truth in the axes of that window."""
    n, _, C = scenes.image.shape[:3]
    root = scenes.translation[:, 0]
    sight = Sight.at(scenes.position.float(), root[:, None].expand(-1, C, -1))
    edge = (torch.arange(CROP, dtype=torch.float32) + 0.5) / CROP * 2 - 1
    y, x = torch.meshgrid(edge, edge, indexing="ij")
    ray = torch.stack([x * WINDOW / 2, y * WINDOW / 2, torch.zeros_like(x)], -1)
    ray = ray + sight.distance[..., None, None, None] * torch.tensor([0.0, 0.0, 1.0])
    seen = torch.einsum("ncij,nckj,ncyxk->ncyxi", scenes.R_camera_world.float(), sight.R_view_world, ray)
    pixels = scenes.focal[..., None, None, None].float() * seen[..., :2] / seen[..., 2:] + scenes.centre[:, :, None, None].float()
    place = (pixels + 0.5) / scenes.image.shape[-2] * 2 - 1
    image = scenes.image[:, 0].flatten(0, 1).permute(0, 3, 1, 2).float()
    looked = F.grid_sample(image, place.flatten(0, 1), align_corners=False).round().to(torch.uint8)
    R = rotation.exp(scenes.rotation[:, 0])[:, joint_rows()][:, None].repeat(1, C, 1, 1, 1)
    R[:, :, 0] = sight.R_view_world @ R[:, :, 0]
    flat = {"R": R, "shape": scenes.shape[:, None].expand(-1, C, -1), "tilt": sight.tilt()}
    return looked, {k: v.flatten(0, 1) for k, v in flat.items()} | {"group": torch.arange(n).repeat_interleave(C)}


def learn_to_see(networks: Recovery, preset: str, loop: Loop, state: Path) -> bool:
    """Trains the trunk in place, everything else as it is; whether it is done."""
    from studio.train.recovery import keypoints

    trunk, regressor = networks.trunk, networks.regressor.eval().requires_grad_(False)
    assert trunk is not None
    images, truth = windows(cached(CONFIG, COUNTS[preset]))

    def batches(step: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(loop.seed * 100_003 + step)
        which = torch.randint(len(images), (BATCH,), generator=g)
        light = (0.8 + 0.4 * torch.rand(BATCH, 3, 1, 1, generator=g)).expand(-1, -1, CROP, CROP)
        return {"image": (images[which].float() / 255 * light).clamp(0, 1)} | {k: v[which] for k, v in truth.items()}

    def loss(batch: dict[str, Tensor]) -> Losses:
        features = trunk(batch["image"], batch["tilt"])[:, None]
        guess = regressor(features, torch.eye(3).to(features).expand(BATCH, 1, 3, 3))[-1]
        off = keypoints(guess.shape, guess.R) - keypoints(batch["shape"], batch["R"])
        labels = 10 * (guess.R - batch["R"]).square().sum((-1, -2)).mean()
        return {"labels": labels, "points": 40 * off.norm(dim=-1).mean(), "people": 0.3 * (guess.shape - batch["shape"]).square().mean()}

    steps = replace(loop, steps=STEPS_OF[preset], recipe={"images": len(images)})
    done = learn(Player(trunk, loss, rate=1e-3, average=0.99), batches, steps, state).done
    regressor.requires_grad_(True)
    return done


@torch.no_grad()
def image_errors(networks: Recovery, count: int = 64) -> dict[str, float]:
    """Of keypoints relative to the root, mm, from one image each, on scenes held out in people, actions, clothes and rooms."""
    from studio.train.recovery import compared, keypoints, violations

    assert networks.trunk is not None
    images, truth = windows(cached(held_out(CONFIG), count))
    found: list[Float[Tensor, "n K 3"]] = []
    R = []
    for i in range(0, len(images), 64):
        features = networks.trunk(images[i : i + 64].float() / 255, truth["tilt"][i : i + 64])[:, None]
        guess = networks.regressor(features, torch.eye(3).expand(len(features), 1, 3, 3), steps=STEPS)[-1]
        found.append(keypoints(guess.shape, guess.R))
        R.append(guess.R)
    return {**compared(torch.cat(found), keypoints(truth["shape"], truth["R"])), "violations %": 100 * violations(torch.cat(R))}
