"""USD with UsdSkel: skeleton, skin, face shapes, animation and plain materials. Centimetres, y up, facing +z. Written by usd-core.

Bind and rest transforms are two things in UsdSkel: the mesh keeps the pose it was modelled in and moves exactly as the body model, while
the skeleton rests in the rest pose. Layout after the schema's documentation (openusd.org/release/api/_usd_skel__schemas.html). Animation
lies on time codes that are frame numbers, `timeCodesPerSecond` of them a second. All joints share their keys, as the schema has it, so
that fewer of them can be left out than in FBX or GLB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rigs import rotation
from studio.export import keys
from studio.export.animation import Character, in_pieces
from studio.export.glb import ROUNDING, continuous
from studio.export.mesh import Mesh, surface

CENTIMETRES = 100.0
STILL = 1e-7
"""A face shape keeps displacements above this, m."""
FACE_ERROR = 0.002
"""What face weights may miss where keys are left out."""


def write(
    path: Path,
    characters: Sequence[Character],
    clip: str = "take",
    first_code: int = 0,
    degrees: float = 0.0,
    millimetres: float = 0.0,
) -> Path:
    """Write characters of one take into one file, `.usdc` (binary) or `.usda` (text); the first frame lies at `first_code`.

    `degrees` and `millimetres` are what joints may miss where keys are left out; 0 keeps all keys.
    """
    pxr = library(path)
    layer = pxr.Sdf.Layer.CreateAnonymous(path.suffix)
    stage = pxr.Usd.Stage.Open(layer)
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    pxr.UsdGeom.SetStageMetersPerUnit(stage, 1 / CENTIMETRES)
    stage.SetTimeCodesPerSecond(characters[0].fps)
    stage.SetFramesPerSecond(characters[0].fps)
    stage.SetStartTimeCode(first_code)
    stage.SetEndTimeCode(first_code + max(len(c.root) for c in characters) - 1)
    for character in characters:
        _Actor(pxr, stage, character, first_code, (degrees, millimetres)).define(clip)
    stage.SetDefaultPrim(stage.GetPseudoRoot().GetChildren()[0])
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    if not layer.Export(str(temporary)):
        raise ValueError(f"{path}: USD could not be written there; check the folder and the room on the disk")
    temporary.replace(path)
    return path


def library(path: Path) -> Any:
    """The package that writes these files; a `ModuleNotFoundError` names the extra that holds it."""
    try:
        import pxr
        from pxr import Gf, Sdf, Tf, Usd, UsdGeom, UsdShade, UsdSkel, Vt  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(f"{path}: USD needs the usd-core package: pip install 'mocap-studio[usd]'") from error
    return pxr


class _Actor:
    """One character while its prims are defined."""

    def __init__(self, pxr: Any, stage: Any, character: Character, first_code: int, limits: tuple[float, float]) -> None:
        self.pxr, self.stage, self.character, self.first_code, self.limits = pxr, stage, character, first_code, limits
        self.place = self._free("/" + self.valid(character.actor))

    def valid(self, name: str) -> str:
        """A name as USD allows it; letters of all scripts are, spaces are not."""
        plain = "".join(letter if f"_{letter}".isidentifier() else "_" for letter in name)
        return plain if self.pxr.Sdf.Path.IsValidIdentifier(plain) else f"_{plain}"

    def _free(self, place: str) -> str:
        number, found = 1, place
        while self.stage.GetPrimAtPath(found):
            number += 1
            found = f"{place}_{number}"
        return found

    def define(self, clip: str) -> None:
        """Everything of this character below one SkelRoot."""
        root = self.pxr.UsdSkel.Root.Define(self.stage, self.place).GetPrim()
        root.SetDisplayName(self.character.actor)
        root.SetCustomDataByKey("timecode", self.character.timecode)
        skeleton = self._skeleton()
        animation = self._animation(self.valid(clip))
        self.pxr.UsdSkel.BindingAPI.Apply(skeleton.GetPrim()).CreateAnimationSourceRel().SetTargets([animation.GetPath()])
        self._mesh(surface(self.character, split=False), skeleton)

    @property
    def joints(self) -> list[str]:
        """Every joint as a path below the top one."""
        skeleton, paths = self.character.skeleton, []
        for name, up in zip(skeleton.names, skeleton.parents):
            paths.append(self.valid(name) if up < 0 else f"{paths[up]}/{self.valid(name)}")
        return paths

    def _skeleton(self) -> Any:
        skeleton = self.pxr.UsdSkel.Skeleton.Define(self.stage, f"{self.place}/skeleton")
        rest = torch.eye(4, dtype=torch.float64).repeat(len(self.joints), 1, 1)
        rest[:, :3, 3] = self.character.offsets
        skeleton.CreateJointsAttr(self.joints)
        skeleton.CreateBindTransformsAttr(self._matrices(torch.linalg.inv(self.character.inverse_bind)))
        skeleton.CreateRestTransformsAttr(self._matrices(rest))
        return skeleton

    def _matrices(self, transforms: Tensor) -> Any:
        """USD's row vectors want the transpose, lengths in centimetres."""
        scaled = transforms.clone()
        scaled[:, :3, 3] *= CENTIMETRES
        return self.pxr.Vt.Matrix4dArray([self.pxr.Gf.Matrix4d(*M.T.flatten().tolist()) for M in scaled])

    def _animation(self, name: str) -> Any:
        character, Vt = self.character, self.pxr.Vt
        animation = self.pxr.UsdSkel.Animation.Define(self.stage, f"{self.place}/skeleton/{name}")
        animation.CreateJointsAttr(self.joints)
        animation.CreateScalesAttr(Vt.Vec3hArray(len(self.joints), self.pxr.Gf.Vec3h(1)))
        degrees, millimetres = self.limits
        turns = continuous(in_pieces(rotation.quaternion, character.R_parent_joint))
        rotations, single = animation.CreateRotationsAttr(), _f32(turns[..., [1, 2, 3, 0]])
        for t in self._kept([keys.arc(turn) for turn in turns.transpose(0, 1).numpy()], math.radians(degrees)):
            rotations.Set(Vt.QuatfArray.FromNumpy(single[t]), self.first_code + t)
        places, offsets = animation.CreateTranslationsAttr(), _f32(character.offsets * CENTIMETRES)
        moving = {j: _f32(place * CENTIMETRES) for j, place in character.places.items()}
        for t in self._kept([keys.straight(place.numpy()) for place in character.places.values()], millimetres / 1000):
            for j, place in moving.items():
                offsets[j] = place[t]
            places.Set(Vt.Vec3fArray.FromNumpy(offsets), self.first_code + t)
        if names := character.shaped.body.expression_names:
            animation.CreateBlendShapesAttr(list(names))
            weights, single = animation.CreateBlendShapeWeightsAttr(), _f32(character.expression)
            for t in self._kept([keys.straight(character.expression.numpy())], FACE_ERROR if degrees else 0.0):
                weights.Set(Vt.FloatArray.FromNumpy(single[t]), self.first_code + t)
        return animation

    def _kept(self, errors: list[Callable[[int, int], np.ndarray]], limit: float) -> list[int]:
        """Frames to key."""
        count = len(self.character.root)
        return keys.kept(count, keys.jointly(errors), limit - ROUNDING).tolist() if limit > ROUNDING else list(range(count))

    def _mesh(self, mesh: Mesh, skeleton: Any) -> None:
        Vt, Tokens = self.pxr.Vt, self.pxr.UsdGeom.Tokens
        drawn = self.pxr.UsdGeom.Mesh.Define(self.stage, f"{self.place}/mesh")
        points = Vt.Vec3fArray.FromNumpy(_f32(mesh.points * CENTIMETRES))
        drawn.CreatePointsAttr(points)
        drawn.CreateExtentAttr(self.pxr.UsdGeom.PointBased.ComputeExtent(points))
        drawn.CreateFaceVertexCountsAttr(Vt.IntArray(len(mesh.triangles), 3))
        drawn.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.triangles.flatten().numpy().astype(np.int32)))
        drawn.CreateSubdivisionSchemeAttr(Tokens.none)
        drawn.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(_f32(mesh.normals)))
        drawn.SetNormalsInterpolation(Tokens.vertex)
        if mesh.corner_uv is not None:
            st = self.pxr.UsdGeom.PrimvarsAPI(drawn).CreatePrimvar("st", self.pxr.Sdf.ValueTypeNames.TexCoord2fArray, Tokens.faceVarying)
            st.Set(Vt.Vec2fArray.FromNumpy(_f32(mesh.corner_uv.reshape(-1, 2))))
        binding = self.pxr.UsdSkel.BindingAPI.Apply(drawn.GetPrim())
        width = mesh.influences.shape[1]
        binding.CreateJointIndicesPrimvar(False, width).Set(Vt.IntArray.FromNumpy(mesh.influences.flatten().numpy().astype(np.int32)))
        binding.CreateJointWeightsPrimvar(False, width).Set(Vt.FloatArray.FromNumpy(_f32(mesh.weights.flatten())))
        binding.CreateGeomBindTransformAttr(self.pxr.Gf.Matrix4d(1))
        binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
        self._face_shapes(mesh, drawn, binding)
        self._materials(mesh, drawn)

    def _face_shapes(self, mesh: Mesh, drawn: Any, binding: Any) -> None:
        names, targets, Vt = self.character.shaped.body.expression_names, [], self.pxr.Vt
        for name, moved in zip(names, mesh.expressions):
            rows = (moved.abs().amax(1) > STILL).nonzero()[:, 0]
            rows = rows if len(rows) else torch.zeros(1, dtype=torch.long)  # Blender leaves out a shape without points
            shape = self.pxr.UsdSkel.BlendShape.Define(self.stage, f"{drawn.GetPath()}/{self.valid(name)}")
            shape.CreateOffsetsAttr(Vt.Vec3fArray.FromNumpy(_f32(moved[rows] * CENTIMETRES)))
            shape.CreatePointIndicesAttr(Vt.IntArray.FromNumpy(rows.numpy().astype(np.int32)))
            targets.append(shape.GetPath())
        if targets:
            binding.CreateBlendShapesAttr(list(names))
            binding.CreateBlendShapeTargetsRel().SetTargets(targets)

    def _materials(self, mesh: Mesh, drawn: Any) -> None:
        Shade, Types = self.pxr.UsdShade, self.pxr.Sdf.ValueTypeNames
        for part, (name, (colour, roughness)) in enumerate(zip(mesh.part_names, mesh.colours)):
            material = Shade.Material.Define(self.stage, f"{self.place}/materials/{self.valid(name)}")
            shader = Shade.Shader.Define(self.stage, f"{material.GetPath()}/surface")
            shader.CreateIdAttr("UsdPreviewSurface")
            shader.CreateInput("diffuseColor", Types.Color3f).Set(self.pxr.Gf.Vec3f(*colour))
            shader.CreateInput("roughness", Types.Float).Set(roughness)
            material.CreateSurfaceOutput().ConnectToSource(shader.ConnectableAPI(), "surface")
            faces = (mesh.parts == part).nonzero()[:, 0].numpy().astype(np.int32)
            subset = Shade.MaterialBindingAPI.Apply(drawn.GetPrim()).CreateMaterialBindSubset(
                f"{self.valid(name)}_faces", self.pxr.Vt.IntArray.FromNumpy(faces)
            )
            Shade.MaterialBindingAPI.Apply(subset.GetPrim()).Bind(material)


def _f32(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.to(torch.float32).numpy())
