"""Annotation files and photos in, batches of crops out.

In the order of the flow:

    dataset       Person and PoseDataset, what every reader produces
    intake        what is refused, mended or left out, and the reading of photos
    coco, mpii    the two file formats
    sources       a config's dataset as its two splits
    crops         the part of a photo that the network sees, and where the joints fall in it
    augmentation  random variations of that part
    loader        batches

Nothing is imported here, so that readers of annotations need no torch.
"""
