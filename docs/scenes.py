"""Make the picture of the kinds of made-up scenes that training.md shows.

python docs/scenes.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from napari_surgsam2.synthetic import SCENES, make_clip

PICTURE = Path(__file__).parent / "images" / "scenes.jpg"
SEEDS = (3, 12, 22)
SIZE = (192, 240)  # of a tile, y and x
MADE = (384, 480)
CAPTION = 18


def main() -> None:
    """Put a frame of each kind and seed into one picture, a column for each kind."""
    height, width = SIZE
    sheet = Image.new("RGB", (width * len(SCENES), CAPTION + height * len(SEEDS)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, scene in enumerate(SCENES):
        pen.text((column * width + 4, 3), scene, fill="black")
        for row, seed in enumerate(SEEDS):
            frame = Image.fromarray(make_clip(seed, 3, MADE, scene).video[1])
            sheet.paste(frame.resize((width, height)), (column * width, CAPTION + row * height))
    sheet.save(PICTURE, quality=85)


if __name__ == "__main__":
    main()
