"""Towns of rendered streets: what their things are made of, their weather and the camera that drives through them."""

from dataclasses import dataclass

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Town:
    """The look of a town; colours are RGB, from which each thing takes one, a little lighter or darker.

    Args:
        masonry: Of buildings and walls, so that colour alone doesn't tell them apart.
        camera_height: Metres above the ground.
        focal: Focal length in shares of the picture's width and height, summed.
        horizon: Its height in the picture from the top, as a range of shares.
        sunny: Probability of sun, and with it of shadows and of sides in the light.
        asphalt: Range of grey.
        fog: Metres at which half of a thing's colour is the haze's.
        light: Range of the pictures' brightness.
        tint: Of the light, on red, green and blue.
        noise: Range of the sensor's, in grey levels.
        first_scene: Seed of its first scene, 2^40 from the next town's: no two have a street in common.
        frames: Scenes in train, validation and test of its data set.
    """

    masonry: tuple[Color, ...]
    roofs: tuple[Color, ...]
    leaves: tuple[Color, ...]
    grass: tuple[Color, ...]
    stone: tuple[Color, ...]
    sky: tuple[Color, ...]
    haze: tuple[Color, ...]
    asphalt: tuple[float, float]
    camera_height: float
    focal: tuple[float, float]
    horizon: tuple[float, float]
    sunny: float
    first_scene: int
    fog: float = 220
    light: tuple[float, float] = (0.65, 1.15)
    tint: tuple[float, float, float] = (1, 1, 1)
    noise: tuple[float, float] = (3, 12)
    frames: tuple[int, int, int] = (64, 16, 16)


TOWNS = {
    # Brick and plaster under a northern sky, seen by a camera as KITTI's (0.58 of the width at 2:1).
    "riverside": Town(
        masonry=((178, 160, 138), (150, 88, 70), (196, 190, 178), (128, 122, 116), (206, 184, 140), (112, 84, 72)),
        roofs=((110, 62, 50), (74, 70, 72), (92, 80, 70)),
        leaves=((62, 88, 40), (84, 104, 48), (48, 74, 44), (110, 112, 52), (74, 98, 66)),
        grass=((104, 116, 62), (132, 124, 84), (86, 102, 56)),
        stone=((138, 134, 130), (120, 114, 112), (150, 136, 126)),
        sky=((92, 138, 196), (150, 168, 190), (178, 184, 190)),
        haze=((205, 212, 220), (188, 200, 216), (224, 218, 206)),
        asphalt=(82, 124),
        camera_height=1.65,
        focal=(0.29, 0.58),
        horizon=(0.40, 0.50),
        sunny=0.65,
        first_scene=0,
    ),
    # Whitewash, ochre and sandstone in the dry south, seen from a van with a longer lens. What `tiny-streets` knows.
    "hillside": Town(
        masonry=((226, 220, 206), (214, 170, 112), (186, 128, 96), (232, 206, 170), (158, 136, 118), (198, 202, 206)),
        roofs=((170, 94, 66), (146, 104, 84), (188, 150, 122)),
        leaves=((96, 112, 62), (58, 92, 58), (128, 128, 74), (78, 112, 40), (112, 104, 60)),
        grass=((164, 146, 96), (142, 132, 70), (120, 124, 64)),
        stone=((176, 158, 136), (156, 148, 142), (168, 132, 112)),
        sky=((70, 128, 208), (112, 158, 214), (196, 200, 204)),
        haze=((222, 220, 210), (200, 210, 222), (232, 212, 186)),
        asphalt=(66, 138),
        camera_height=1.95,
        focal=(0.34, 0.68),
        horizon=(0.36, 0.48),
        sunny=0.8,
        first_scene=2**40,
        frames=(3000, 48, 48),
    ),
    # A foggy evening by the sea, all in lamplight, seen through a wide lens from the top of a bus. What the demo is
    # fine-tuned on.
    "harbour": Town(
        masonry=((92, 70, 66), (70, 84, 92), (120, 104, 96), (84, 92, 84), (134, 118, 104), (66, 62, 70)),
        roofs=((56, 60, 70), (84, 56, 52), (66, 74, 66)),
        leaves=((70, 74, 40), (110, 84, 40), (92, 62, 44), (64, 70, 52)),
        grass=((92, 92, 70), (74, 82, 62), (104, 96, 80)),
        stone=((96, 98, 104), (112, 104, 98), (84, 88, 90)),
        sky=((70, 76, 96), (104, 92, 96), (126, 116, 112)),
        haze=((150, 142, 136), (128, 132, 142), (140, 126, 116)),
        asphalt=(40, 76),
        camera_height=2.5,
        focal=(0.21, 0.42),
        horizon=(0.42, 0.56),
        sunny=0.1,
        fog=90,
        light=(0.55, 1.0),
        tint=(1.12, 0.98, 0.8),
        noise=(6, 14),
        first_scene=2**41,
    ),
}
