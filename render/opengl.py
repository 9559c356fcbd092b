"""The renderer on OpenGL, by pyrender through EGL, or OSMesa where there is no EGL: for GPUs, and as a second opinion on `render.raster`.

Light comes as colours of the corners, since pyrender's own lights are one-sided and add a gloss that the style does not have. Its gamma
is a power of 2.2 and four samples a pixel are averaged after it, so colours look like the rasteriser's without being equal. Mask, depth
and face numbers come from a pass of our own, `render.opengl_faces`.

One context serves the process for its life, in the thread that made it: deleting one would end all others, and none survives a fork.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from render import srgb
from render.cameras import Cameras
from render.checks import doubled_area_vectors
from render.meshes import Material, Mesh
from render.opengl_faces import FacePass, depth_range
from render.views import Style, Views

_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swiftshader", "software")
_EGL_CUDA_DEVICE_NV = 0x323A
_TO_OPENGL_AXES = np.diag([1.0, -1.0, -1.0, 1.0])


class RenderError(Exception):
    """OpenGL cannot be had or failed. Holds a sentence only, since the errors of GL carry pointers that no other process can take."""


class _Context:
    """What lives once a process: pyrender's renderer, our face pass, and who may use them."""

    def __init__(self, cuda_device: int | None, require_hardware: bool) -> None:
        self.platform = _choose_platform()
        if self.platform == "egl":
            _choose_device(cuda_device, require_hardware)
        elif cuda_device is not None:
            raise RenderError(f"CUDA device {cuda_device} was asked for, but OSMesa draws on the CPU; set PYOPENGL_PLATFORM=egl.")
        try:
            import pyrender
            from OpenGL import GL

            self.pyrender: Any = pyrender
            self.renderer: Any = pyrender.OffscreenRenderer(64, 64)
            self.gl_renderer = str(GL.glGetString(GL.GL_RENDERER).decode())
            self.gl_version = str(GL.glGetString(GL.GL_VERSION).decode())
            self.faces = FacePass()
        except Exception as error:
            raise RenderError(
                f"OpenGL 4.1 could not be started through {self.platform} ({type(error).__name__}); "
                "install a driver (Mesa's is in libgl1-mesa-dri) or use the renderer raster."
            ) from None
        self.pid, self.thread = os.getpid(), threading.get_ident()


_context: _Context | None = None


def _choose_platform() -> str:
    """Sets PYOPENGL_PLATFORM, which PyOpenGL reads at its import."""
    installed = {name.lower() for name in importlib.metadata.packages_distributions().get("pyrender", [])}
    if "pyrender" in installed:
        raise RenderError("The package pyrender is installed and hides pyrender2; remove both and install pyrender2 again.")
    if not installed:
        raise RenderError("The package pyrender2 is not installed; install it or use the renderer raster.")
    chosen = os.environ.get("PYOPENGL_PLATFORM")
    if chosen is None:
        if "OpenGL" in sys.modules:
            raise RenderError("OpenGL was imported before the renderer could choose EGL; set PYOPENGL_PLATFORM=egl.")
        chosen = "egl" if _has_library("EGL", "libEGL.so.1") else "osmesa" if _has_library("OSMesa", "libOSMesa.so.8") else None
    if chosen not in ("egl", "osmesa"):
        found = "neither EGL nor OSMesa was found" if chosen is None else f"PYOPENGL_PLATFORM is {chosen}"
        raise RenderError(
            f"Off-screen OpenGL needs EGL or OSMesa, but {found}; install libegl1 and libgl1-mesa-dri or use the renderer raster."
        )
    os.environ["PYOPENGL_PLATFORM"] = chosen
    return chosen


def _has_library(*names: str) -> bool:
    from ctypes.util import find_library

    for name in names:
        try:
            ctypes.CDLL(find_library(name) or name)
        except OSError:
            continue
        return True
    return False


def egl_devices() -> list[dict[str, Any]]:
    """The EGL devices in EGL's order: each {"software": bool, "cuda": index or None}. Needs PYOPENGL_PLATFORM=egl."""
    from OpenGL import EGL
    from pyrender.platforms import egl

    address = EGL.eglGetProcAddress(b"eglQueryDeviceAttribEXT")
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))(address) if address else None
    address = EGL.eglGetProcAddress(b"eglQueryDeviceStringEXT")
    describe = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)(address) if address else None
    found = []
    for device in egl.query_devices():
        pointer = ctypes.cast(device._display, ctypes.c_void_p)
        extensions = (describe(pointer, EGL.EGL_EXTENSIONS) or b"") if describe else b""
        number = ctypes.c_ssize_t(-1)
        has_cuda = b"EGL_NV_device_cuda" in extensions and query is not None
        cuda = number.value if has_cuda and query and query(pointer, _EGL_CUDA_DEVICE_NV, ctypes.byref(number)) else None
        found.append({"software": b"EGL_MESA_device_software" in extensions, "cuda": cuda})
    return found


def _choose_device(cuda_device: int | None, require_hardware: bool) -> None:
    """Sets EGL_DEVICE_ID, EGL's own count, which neither knows CUDA's nor what is hidden from it."""
    if cuda_device is None and "EGL_DEVICE_ID" in os.environ:
        return
    try:
        devices = egl_devices()
    except Exception as error:
        raise RenderError(f"EGL does not list its devices ({type(error).__name__}); install a driver or use the renderer raster.") from None
    if not devices:
        raise RenderError(
            "EGL knows no device; install a driver with its vendor file (Mesa's is in libegl-mesa0) or use the renderer raster."
        )
    hardware = [i for i, device in enumerate(devices) if not device["software"]]
    if cuda_device is not None:
        fitting = [i for i, device in enumerate(devices) if device["cuda"] == cuda_device]
        if not fitting:
            raise RenderError(f"No EGL device belongs to CUDA device {cuda_device}; give the container the driver's graphics capability.")
        os.environ["EGL_DEVICE_ID"] = str(fitting[0])
    elif require_hardware and not hardware:
        raise RenderError("A GPU was asked for, but EGL has software devices only; install the GPU's driver or use the renderer raster.")
    elif hardware:
        os.environ["EGL_DEVICE_ID"] = str(hardware[0])


class OpenGLRenderer:
    """See `render.views.Renderer`. With require_hardware a software driver is an error; cuda_device picks that CUDA device's EGL device.

    The first renderer of a process makes the context that all later ones share. Raises RenderError.
    """

    name = "opengl"

    def __init__(self, *, require_hardware: bool = False, cuda_device: int | None = None) -> None:
        global _context
        if _context is None:
            _context = _Context(cuda_device, require_hardware)
        self._context = _context
        if require_hardware and any(word in _context.gl_renderer.lower() for word in _SOFTWARE):
            raise RenderError(
                f"A GPU was asked for, but OpenGL draws in software ({_context.gl_renderer}); "
                "install the GPU's driver or use the renderer raster."
            )
        version = importlib.metadata.version("pyrender2")
        self.description = f"opengl: pyrender2 {version}, {_context.platform}, {_context.gl_renderer}, OpenGL {_context.gl_version}"

    def render(self, mesh: Mesh, cameras: Cameras, style: Style) -> Views:
        """All views of one mesh. Translucent materials are drawn opaque. Raises RenderError, also in another thread or a forked process."""
        if (self._context.pid, self._context.thread) != (os.getpid(), threading.get_ident()):
            raise RenderError(
                "OpenGL belongs to the thread and process that started it; make the renderer where it is used, without a fork."
            )
        try:
            return self._render(mesh, cameras, style)
        except Exception as error:
            raise RenderError(f"OpenGL failed to draw a mesh ({type(error).__name__}: {str(error)[:160]}).") from None

    def render_frames(self, mesh: Mesh, vertices: npt.NDArray[np.float64], cameras: Cameras, style: Style) -> Views:
        """One view of each frame of a mesh that moves. Raises as `render`."""
        frames = []
        for number, moved in enumerate(vertices):
            one = replace(cameras, K=cameras.K[number, None], world_to_camera=cameras.world_to_camera[number, None])
            frames.append(self.render(replace(mesh, vertices=moved), one, style))
        return Views(*(np.concatenate([getattr(frame, name) for frame in frames]) for name in ("color", "depth", "mask", "face_ids")))

    def _render(self, mesh: Mesh, cameras: Cameras, style: Style) -> Views:
        pyrender, renderer = self._context.pyrender, self._context.renderer
        renderer.viewport_width, renderer.viewport_height = cameras.width, cameras.height
        scene = pyrender.Scene(bg_color=[*style.background, 0.0], ambient_light=[1.0, 1.0, 1.0])
        camera = pyrender.IntrinsicsCamera(1.0, 1.0, 0.0, 0.0)
        camera_node = scene.add(camera)
        materials = [_pyrender_material(pyrender, material, mesh.corner_uv is not None) for material in mesh.materials]
        corners, paint, normals = mesh.vertices[mesh.faces], _corner_colors(mesh), _unit_normals(mesh)
        color = np.empty((len(cameras.K), cameras.height, cameras.width, 4), np.uint8)
        node = None
        for view, (K, world_to_camera) in enumerate(zip(cameras.K, cameras.world_to_camera, strict=True)):
            if node is None or any(light.frame == "camera" for light in style.lights):
                light = _intensity(normals, style, world_to_camera[:3, :3])
                if node is not None:
                    scene.remove_node(node)
                node = scene.add(_pyrender_mesh(pyrender, mesh, materials, corners, paint * light[:, None, None]))
            camera.znear, camera.zfar = depth_range(cameras, view, corners.reshape(-1, 3))
            # Drawn upside down and turned back, so that the four samples of a pixel lie as those of a grid counted from the top.
            camera.fx, camera.fy, camera.cx, camera.cy = K[0, 0], -K[1, 1], K[0, 2], cameras.height - K[1, 2]
            scene.set_pose(camera_node, np.linalg.inv(world_to_camera) @ _TO_OPENGL_AXES)
            flags = pyrender.RenderFlags.RGBA | pyrender.RenderFlags.SKIP_CULL_FACES
            color[view] = renderer.render(scene, flags=flags)[0][::-1]
        depth, face_ids, mask = self._context.faces.draw(corners.reshape(-1, 3), cameras)
        return Views(color, depth, mask, face_ids)


def _unit_normals(mesh: Mesh) -> npt.NDArray[np.float64]:
    normals = doubled_area_vectors(mesh.vertices, mesh.faces)
    lengths = np.sqrt((normals**2).sum(axis=1, keepdims=True))
    return np.asarray(normals / np.maximum(lengths, 1e-300))


def _intensity(normals: npt.NDArray[np.float64], style: Style, rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What each face (F, 3) gets of light, in a view with this rotation to the camera: ambient + Σ intensity |n·l|."""
    total = np.full(len(normals), style.ambient)
    for light in style.lights:
        direction = np.array(light.direction, np.float64)
        direction = direction @ rotation if light.frame == "camera" else direction
        total += light.intensity * np.abs(normals @ direction) / max(float(np.linalg.norm(direction)), 1e-300)
    return total


def _corner_colors(mesh: Mesh) -> npt.NDArray[np.float64]:
    """Vertex or else face colours in linear light, (F, 3, 3); ones where there are none."""
    if mesh.vertex_colors is not None:
        return srgb.decode(mesh.vertex_colors[mesh.faces, :3] / 255)
    if mesh.face_colors is not None:
        return np.repeat(srgb.decode(mesh.face_colors[:, None, :3] / 255), 3, axis=1)
    return np.ones((len(mesh.faces), 3, 3))


def _pyrender_mesh(
    pyrender: Any, mesh: Mesh, materials: list[Any], corners: npt.NDArray[np.float64], colors: npt.NDArray[np.float64]
) -> Any:
    """A primitive for each material; triangles have corners (F, 3, 3) of their own, since light and texture coordinates are."""
    primitives = []
    opaque = np.concatenate((colors, np.ones_like(colors[..., :1])), axis=2)
    for number, material in enumerate(materials):
        here = np.flatnonzero(mesh.face_material == number)
        if len(here):
            uv = mesh.corner_uv[here].reshape(-1, 2) if mesh.corner_uv is not None and material.baseColorTexture is not None else None
            primitives.append(
                pyrender.Primitive(corners[here].reshape(-1, 3), texcoord_0=uv, color_0=opaque[here].reshape(-1, 4), material=material)
            )
    return pyrender.Mesh(primitives)


def _pyrender_material(pyrender: Any, material: Material, textured: bool) -> Any:
    texture = None
    if textured and material.texture is not None:
        from OpenGL import GL

        modes = {"repeat": GL.GL_REPEAT, "clamp": GL.GL_CLAMP_TO_EDGE, "mirror": GL.GL_MIRRORED_REPEAT}
        sampler = pyrender.Sampler(wrapS=modes[material.wrap[0]], wrapT=modes[material.wrap[1]])
        opaque = material.texture.copy()
        opaque[..., 3] = 255
        texture = pyrender.Texture(source=opaque, source_channels="RGBA", sampler=sampler)
    base = srgb.decode(material.base_color[:3].astype(np.float64))
    return pyrender.MetallicRoughnessMaterial(
        baseColorFactor=[*base, 1.0],
        baseColorTexture=texture,
        metallicFactor=0.0,
        roughnessFactor=1.0,
        alphaMode="OPAQUE",
        doubleSided=True,
    )
