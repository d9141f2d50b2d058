"""Annotation files and photos in, batches of crops out.

In the order of the flow:

    dataset       Person and PoseDataset, what every reader produces
    intake        checked numbers and ids, and an account of what is refused, mended or left out
    layouts       a folder and a split -> the split's file
    photos        a name in an annotation -> the file below the folder -> pixels
    annotation    one annotation of COCO's, mended
    assembly      people and their photos -> a PoseDataset
    coco, mpii    the two formats (coco_files and coco_content: COCO's files as a whole)
    detections    people whom a detector found, for evaluation
    sources       a config's dataset as its two splits
    crops         the part of a photo that the network sees, and where the joints fall in it
    augmentation  random variations of that part
    loader        batches

Beside it: ``lspet`` and ``faces`` make the study's folders from public sets (``conversion``), ``samples`` fetches files
for tests, ``origins`` knows where COCO and MPII are to be had.

Nothing is imported here, so that readers of annotations need no torch.
"""
