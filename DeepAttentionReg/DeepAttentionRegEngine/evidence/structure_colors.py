"""Colors by which structures are known: of the brain those of FreeSurfer, of organs those of Slicer.

Sources: FreeSurferColorLUT.txt of FreeSurfer (left and right alike, as there); GenericAnatomyColors.txt of 3D Slicer.
"""

import colorsys

Color = tuple[int, int, int]  # red, green and blue, 0 to 255

SIDES = ("left ", "right ")
FREESURFER: dict[str, Color] = {
    "cerebral white matter": (245, 245, 245),
    "cerebral cortex": (205, 62, 78),
    "lateral ventricle": (120, 18, 134),
    "inferior lateral ventricle": (196, 58, 250),
    "cerebellar white matter": (220, 248, 164),
    "cerebellar cortex": (230, 148, 34),
    "thalamus": (0, 118, 14),
    "caudate": (122, 186, 220),
    "putamen": (236, 13, 176),
    "pallidum": (12, 48, 255),
    "hippocampus": (220, 216, 20),
    "amygdala": (103, 255, 255),
    "accumbens": (255, 165, 0),
    "ventral diencephalon": (165, 42, 42),
    "choroid plexus": (0, 200, 200),
    "third ventricle": (204, 182, 142),
    "fourth ventricle": (42, 204, 164),
    "brainstem": (119, 159, 176),
    "cerebrospinal fluid": (60, 60, 60),
}
GENERIC_ANATOMY: dict[str, Color] = {
    "lung": (197, 165, 145),
    "trachea": (182, 228, 255),
    "heart": (206, 110, 84),
    "right atrium": (210, 115, 89),
    "left atrium": (203, 108, 81),
    "right ventricle": (181, 85, 57),
    "left ventricle": (152, 55, 13),
    "aorta": (224, 97, 76),
    "inferior vena cava": (0, 147, 202),
    "portal and splenic vein": (0, 147, 202),
    "esophagus": (211, 171, 143),
    "stomach": (216, 132, 105),
    "duodenum": (255, 253, 229),
    "liver": (221, 130, 101),
    "gallbladder": (139, 150, 98),
    "pancreas": (249, 180, 111),
    "spleen": (157, 108, 162),
    "kidney": (185, 102, 83),
    "adrenal gland": (249, 186, 150),
    "urinary bladder": (222, 154, 132),
}
STANDARD = {**FREESURFER, **GENERIC_ANATOMY, "lungs": GENERIC_ANATOMY["lung"]}
GOLDEN_RATIO = 0.618  # of the circle of hues between one and the next, which keeps any number of them apart


def color_of(name: str, number: int) -> Color:
    """Return the color of a structure: the standard one, else one that differs from those of its neighbors.

    Args:
        name: What it is called; "left" and "right" before it make no difference where the standards make none.
        number: Its label value.

    Examples:
        >>> color_of("left hippocampus", 3) == color_of("right hippocampus", 4) == (220, 216, 20)
        True
    """
    plain = name.casefold()
    for side in SIDES:
        plain = plain if plain in STANDARD else plain.removeprefix(side)
    if plain in STANDARD:
        return STANDARD[plain]
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.6, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
