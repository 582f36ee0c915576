"""Made-up clips."""

import numpy as np


def moving_blobs(frames: int = 24, height: int = 72, width: int = 96) -> np.ndarray:
    """Return two textured discs moving over a textured ground, (T, Y, X, 3) uint8."""
    rng = np.random.default_rng(7)
    ground = rng.integers(40, 110, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    clip = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        clip[t] = ground
        for i, color in enumerate([(220, 60, 60), (60, 80, 230)]):
            cy = height * (0.35 + 0.3 * i) + 6 * np.sin(0.4 * t + i)
            cx = width * 0.2 + (0.6 * width * t / max(frames, 20)) if i == 0 else width * 0.7 - 1.2 * t
            disc = (y - cy) ** 2 + (x - cx) ** 2 < (height / 7) ** 2
            clip[t][disc] = color + rng.integers(-15, 15, (int(disc.sum()), 3))
    return clip
