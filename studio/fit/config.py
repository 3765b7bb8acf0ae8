"""The settings of a fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitConfig:
    """Strengths are standard deviations in physical units."""

    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    kernel: float = 3.0
    """Residuals beyond this many standard deviations lose their say."""
    root_acceleration: float = 1.5
    """m/s^2."""
    joint_acceleration: float = 6.0
    """rad/s^2 of trunk joints; limbs and hands are livelier."""
    expression_acceleration: float = 40.0
    """1/s^2."""
    contact: float = 0.003
    """How far a planted foot may move, m; 0 switches contacts off."""
    silhouette: float = 0.06
    """How far the outline of a mask may lie from the body's, m: clothes and hair are not the body's; 0 leaves masks out."""
    solid: float = 0.0
    """How deep limbs may sink into each other, m; 0: they may."""
    floor: float = 0.0
    """How deep the body may sink below z = 0, m; 0: there is no floor."""
    poses: float = 0.2
    """How far the joints of a limb may lie off poses that people are known to take, rad; 0 leaves these out."""
    synergies: float = 0.12
    """How far fingers may lie off what the fingers of a hand do together, rad; 0 leaves it out."""
    shares: float = 0.2
    """How far a joint of the back or the neck may lie off its share of what the chain does, in halves of its range; 0 leaves it out."""
    pose_time: float = 0.3
    """How long a pose is held, s: what is known of poses and fingers counts once in this time."""
    bursts: float = 150.0
    """rad/s^2 of trunk joints, limbs likewise livelier: what one may assume of a part of the body that strikes, and less than usual of one
    that is held still; 0 keeps the same for all frames."""
    pose_file: str = ""
    """What `studio train pose_prior` wrote; the package's own where empty."""
    recover: bool = False
    """Whether a network guesses poses of frames where triangulated points tell too little; taken where they reproject better."""
    adapt: bool = False
    """With `recover`: whether the network first learns each stretch that one camera alone saw (some seconds of work each)."""
    mask_shape: bool = False
    """Whether masks tell of the shape too, where there are any: a network's estimate takes the place of the mean person."""
    volume: float = 0.0
    """How far the surface of a network's volume may lie from the body on key frames with masks, m (such as 0.08); 0: not asked."""
    order: float = 0.9
    """How sure a network must be which end of a limb is nearer, where one view alone sees it (probability, such as 0.9); 0: not asked."""
    dense: float = 0.0
    """How far off points of the skin that a network saw may lie together, m; 0 leaves them out."""
    key_frames: int = 48
    """Frames on which the shape is solved."""
    window: int = 256
    """Frames solved together; longer takes are cut into overlapping windows."""
    halo: int = 24
    """Overlap of windows, frames."""
    workers: int = 0
    """Windows solved at the same time on a CPU, one thread each; 0 for one a processor."""
