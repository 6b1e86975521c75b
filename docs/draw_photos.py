"""Draws a small folder of pictures to try zoo-train on: python docs/draw_photos.py photos/

As people have their own: a folder for each kind, no split, JPEG of several sizes. 120 pictures, under a second.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

KINDS = {"balls": 0, "boxes": 4, "tents": 3}  # corners


def picture(corners: int, chance: random.Random) -> Image.Image:
    width, height = chance.choice([(160, 120), (120, 160), (128, 128)])
    image = Image.effect_noise((width, height), chance.uniform(20, 60)).convert("RGB")
    image = Image.blend(image, Image.new("RGB", image.size, _color(chance)), 0.6)
    draw, radius = ImageDraw.Draw(image), chance.uniform(25, 45)
    place = tuple(side / 2 + chance.uniform(-15, 15) for side in image.size)
    if corners:
        draw.regular_polygon((place, radius), corners, chance.uniform(-20, 20), _color(chance))
    else:
        draw.circle(place, radius, _color(chance))
    return image


def _color(chance: random.Random) -> tuple[int, ...]:
    return tuple(chance.randrange(256) for _ in range(3))


if __name__ == "__main__":
    folder, chance = Path(sys.argv[1]), random.Random(0)  # noqa: S311
    for kind, corners in KINDS.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(40):
            picture(corners, chance).save(folder / kind / f"{number}.jpg", quality=85)
