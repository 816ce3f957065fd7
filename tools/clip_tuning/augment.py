"""Random changes of training pictures: shift, zoom, turn, brightness and colour, for models trained from nothing.

Fine-tuning a given model leaves pictures as they are (`--augment 0`). Legend: B pictures, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ZOOM, TURN, SHIFT = 0.25, 0.25, 0.15
"""Largest zoom (of the side), turn (radians) and shift (of half the side) at strength 1."""
CONTRAST, TINT = 0.3, 0.3
"""Largest change of contrast (a factor) and of each channel (normalised units) at strength 1."""


def augment(pictures: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Change each picture at random.

    Args:
        pictures: (B, 3, H, W) normalised float32.
        strength: 0 returns them as they are.
        draw: CPU generator; nine numbers a picture.

    Returns:
        (B, 3, H, W). Pixels from beyond the edge repeat the edge.
    """
    if strength == 0:
        return pictures
    unit = (2 * torch.rand(9, len(pictures), generator=draw) - 1).mul_(strength).to(pictures.device)
    zoom, stretch, angle = 1 - ZOOM * unit[0], 1 + ZOOM / 2 * unit[1], TURN * unit[2]
    across = torch.stack([zoom * stretch * angle.cos(), -zoom * angle.sin(), SHIFT * unit[3]], dim=1)
    down = torch.stack([zoom * angle.sin(), zoom / stretch * angle.cos(), SHIFT * unit[4]], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved * (1 + CONTRAST * unit[5])[:, None, None, None] + (TINT * unit[6:9]).T[:, :, None, None]
