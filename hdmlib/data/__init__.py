"""From files on disk to batches of crops: readers, geometry, augmentation and the embedded synthetic people.

In the order of the flow: ``samples`` (what a dataset of people is), ``coco`` and ``mpii`` (its two file formats),
``crops`` (which part of a photo the network sees, and where the joints fall in it), ``loader`` (batches). ``people``
and ``embedded`` draw and write a dataset where none is at hand. Nothing is imported here: whoever only draws people
needs no torch.
"""
