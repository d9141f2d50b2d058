"""Synthetic people: a seed in, pictures with exact annotations out, in the file formats of COCO and MPII.

In the order of the flow:

    body      a random skeleton and pose in metres
    clothes   the solids and colours that cover it
    scenery   floor, wall, light, furniture and occluders
    raycast   solids and a camera to depth, brightness and owner of each pixel
    scenes    one picture with the labels of its people
    writers   labels as COCO's and MPII's annotation files
    dataset   a whole dataset in a cache folder, drawn once

No module here imports torch or reads a dataset.
"""
