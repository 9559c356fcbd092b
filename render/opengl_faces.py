"""Depth, mask and face numbers by OpenGL: the mesh is drawn once for each of a pixel's four samples, into a buffer of integers that the
hardware numbers (gl_PrimitiveID), since samples of one drawing cannot be read one by one."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from render.cameras import Cameras

# Where drivers put four samples, in pixels from the centre, rows counted from the top.
SAMPLES = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
_VERTEX = """#version 330 core
layout(location = 0) in vec3 position;
uniform mat4 transform;
void main() { gl_Position = transform * vec4(position, 1.0); }
"""
_FRAGMENT = """#version 330 core
out int face;
void main() { face = gl_PrimitiveID; }
"""


class FacePass:
    """Lives as long as the context that is current when it is made."""

    def __init__(self) -> None:
        from OpenGL import GL
        from OpenGL.GL import shaders

        self._gl: Any = GL
        vertex = shaders.compileShader(_VERTEX, GL.GL_VERTEX_SHADER)
        fragment = shaders.compileShader(_FRAGMENT, GL.GL_FRAGMENT_SHADER)
        self._array = GL.glGenVertexArrays(1)
        GL.glBindVertexArray(self._array)
        self._program = shaders.compileProgram(vertex, fragment, validate=False)
        self._transform = GL.glGetUniformLocation(self._program, "transform")
        self._buffer = GL.glGenBuffers(1)
        self._size = (0, 0)
        self._frame = GL.glGenFramebuffers(1)
        self._targets = GL.glGenRenderbuffers(2)
        GL.glBindVertexArray(0)

    def draw(
        self, triangles: npt.NDArray[np.float64], cameras: Cameras
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Depth (V, H, W) float32, face (V, H, W) int32 and mask (V, H, W) of triangles with corners (3 F, 3).

        A pixel is in the mask where two of its samples are covered; its face is the one that most of its samples see, the nearest among
        equals, and its depth the harmonic mean over these, which is the depth at the centre of a whole pixel.
        """
        GL = self._gl
        self._prepare(triangles, cameras)
        shape = (len(cameras.K), cameras.height, cameras.width)
        depth, face, mask = np.empty(shape, np.float32), np.empty(shape, np.int32), np.empty(shape, np.bool_)
        ids = np.empty((len(SAMPLES), *shape[1:]), np.int32)
        buffer = np.empty((len(SAMPLES), *shape[1:]), np.float32)
        for view in range(shape[0]):
            near, far = depth_range(cameras, view, triangles)
            for sample, offset in enumerate(SAMPLES):
                matrix = _projection(cameras, view, near, far, offset) @ cameras.world_to_camera[view]
                GL.glUniformMatrix4fv(self._transform, 1, GL.GL_TRUE, matrix.astype(np.float32))
                GL.glClearBufferiv(GL.GL_COLOR, 0, np.array([-1, 0, 0, 0], np.int32))
                GL.glClear(GL.GL_DEPTH_BUFFER_BIT)
                GL.glDrawArrays(GL.GL_TRIANGLES, 0, len(triangles))
                GL.glReadPixels(0, 0, shape[2], shape[1], GL.GL_RED_INTEGER, GL.GL_INT, ids[sample])
                GL.glReadPixels(0, 0, shape[2], shape[1], GL.GL_DEPTH_COMPONENT, GL.GL_FLOAT, buffer[sample])
            nearness = np.where(ids >= 0, (far - buffer.astype(np.float64) * (far - near)) / (near * far), 0)
            depth[view], face[view], mask[view] = resolve(ids, nearness)
        GL.glBindVertexArray(0)
        GL.glUseProgram(0)
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, 0)
        return depth, face, mask

    def _prepare(self, triangles: npt.NDArray[np.float64], cameras: Cameras) -> None:
        GL = self._gl
        height, width = cameras.height, cameras.width
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, self._frame)
        if self._size != (height, width):
            for target, kind, attachment in zip(
                self._targets, (GL.GL_R32I, GL.GL_DEPTH_COMPONENT32F), (GL.GL_COLOR_ATTACHMENT0, GL.GL_DEPTH_ATTACHMENT), strict=True
            ):
                GL.glBindRenderbuffer(GL.GL_RENDERBUFFER, target)
                GL.glRenderbufferStorage(GL.GL_RENDERBUFFER, kind, width, height)
                GL.glFramebufferRenderbuffer(GL.GL_FRAMEBUFFER, attachment, GL.GL_RENDERBUFFER, target)
            self._size = (height, width)
        GL.glViewport(0, 0, width, height)
        for switch in (GL.GL_BLEND, GL.GL_CULL_FACE, GL.GL_MULTISAMPLE):
            GL.glDisable(switch)
        GL.glEnable(GL.GL_DEPTH_TEST)
        GL.glDepthFunc(GL.GL_LESS)
        GL.glDepthMask(GL.GL_TRUE)
        GL.glPolygonMode(GL.GL_FRONT_AND_BACK, GL.GL_FILL)
        GL.glUseProgram(self._program)
        GL.glBindVertexArray(self._array)
        GL.glBindBuffer(GL.GL_ARRAY_BUFFER, self._buffer)
        corners = np.ascontiguousarray(triangles, np.float32)
        GL.glBufferData(GL.GL_ARRAY_BUFFER, corners.nbytes, corners, GL.GL_STREAM_DRAW)
        GL.glVertexAttribPointer(0, 3, GL.GL_FLOAT, GL.GL_FALSE, 12, ctypes.c_void_p(0))
        GL.glEnableVertexAttribArray(0)


def resolve(
    ids: npt.NDArray[np.int32], nearness: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Depth, face and mask (H, W) of samples' faces (4, H, W) and inverse depths (4, H, W), as `FacePass.draw` says."""
    face = ids[0].copy()
    mask = face >= 0
    depth = np.divide(len(ids), nearness.sum(axis=0), out=np.zeros(face.shape), where=mask)
    mixed = np.nonzero((ids != ids[0]).any(axis=0))
    some, near = ids[:, mixed[0], mixed[1]], nearness[:, mixed[0], mixed[1]]
    same = some[:, None] == some[None]
    count = np.where(some >= 0, same.sum(axis=1), 0)
    total = (same * near[None]).sum(axis=1)
    # Nearness breaks ties between faces; scaled below 1 it never outweighs a sample.
    best = (count + total / (1 + total.max(initial=0))).argmax(axis=0)[None]
    covered = (some >= 0).sum(axis=0) >= 2
    mask[mixed] = covered
    face[mixed] = np.where(covered, np.take_along_axis(some, best, 0)[0], -1)
    chosen = np.take_along_axis(count, best, 0)[0] / np.maximum(np.take_along_axis(total, best, 0)[0], 1e-300)
    depth[mixed] = np.where(covered, chosen, 0)
    return depth.astype(np.float32), face, mask


def depth_range(cameras: Cameras, view: int, points: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Near and far plane about points (N, 3): tight, since a depth buffer has 24 bits."""
    row = cameras.world_to_camera[view, 2]
    z = points @ row[:3] + row[3]
    near = max(cameras.near, float(z.min()) * 0.99)
    return near, max(float(z.max()) * 1.01, near * 1.01)


def _projection(cameras: Cameras, view: int, near: float, far: float, offset: tuple[float, float]) -> npt.NDArray[np.float64]:
    """OpenGL's 4×4 projection from the camera's OpenCV axes, upside down: OpenGL counts rows from below, so row 0 becomes the top."""
    K = cameras.K[view]
    return np.array(
        [
            [2 * K[0, 0] / cameras.width, 0, 2 * (K[0, 2] - offset[0]) / cameras.width - 1, 0],
            [0, 2 * K[1, 1] / cameras.height, 2 * (K[1, 2] - offset[1]) / cameras.height - 1, 0],
            [0, 0, (far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, 1, 0],
        ]
    )
