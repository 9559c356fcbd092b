"""PLY and STL files, by trimesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from render.meshes import Material, Mesh, MeshError


def read_with_trimesh(path: Path) -> Mesh:
    """The mesh of a PLY or STL file with its vertex or face colours."""
    try:
        with path.open("rb") as file:
            scene = trimesh.load_scene(file, file_type=path.suffix.lower().lstrip("."), process=False)
            parts: list[Any] = [part for part in scene.geometry.values() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # The parsers raise whatever their input leads them to.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise MeshError("unreadable", f"{path}: not a whole {path.suffix[1:].upper()} file ({reason}); write it again.") from error
    if not parts:
        raise MeshError("empty", f"{path}: no faces in it; give a surface, not points or lines.")
    mesh: Any = parts[0] if len(parts) == 1 else trimesh.util.concatenate(parts)
    visual = mesh.visual
    vertex_colors = np.array(visual.vertex_colors, np.uint8) if visual.kind == "vertex" else None
    face_colors = np.array(visual.face_colors, np.uint8) if visual.kind == "face" else None
    plain = vertex_colors is None and face_colors is None
    return Mesh(
        vertices=np.array(mesh.vertices, np.float64),
        faces=np.array(mesh.faces, np.int32),
        materials=(Material() if plain else Material(base_color=np.ones(4, np.float32)),),
        face_material=np.zeros(len(mesh.faces), np.int32),
        vertex_colors=vertex_colors,
        face_colors=face_colors,
    )
