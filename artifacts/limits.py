"""Limits on what is read from files and requests, each with its reason.

A file costs its author nothing to inflate: a hole in a sparse file, a size in a header, a part that is listed twice. So
sizes are compared with these limits, and with the bytes that are there, before memory is taken for them.
"""

from typing import Final

__all__ = [
    "CROP_MODES",
    "DECODING_BYTES",
    "IMAGE_FORMATS",
    "INTERPOLATIONS",
    "MAX_ARCHIVE_DEPTH",
    "MAX_ARCHIVE_HEADER",
    "MAX_BATCH",
    "MAX_CHECKPOINT_VALUES",
    "MAX_CLASS_MAP",
    "MAX_COUNT",
    "MAX_DECODING",
    "MAX_DOCUMENT",
    "MAX_DOCUMENT_VALUES",
    "MAX_FILE",
    "MAX_FILTER_DEPTH",
    "MAX_FOLDERS",
    "MAX_GOLDEN",
    "MAX_GRAPH_NODES",
    "MAX_HOLES",
    "MAX_IMAGE_FILE",
    "MAX_IMAGE_LIST",
    "MAX_IMAGE_MEMORY",
    "MAX_IMAGE_PIXELS",
    "MAX_INPUT",
    "MAX_JPEG_SCANS",
    "MAX_JSON",
    "MAX_JSON_DEPTH",
    "MAX_JSON_VALUES",
    "MAX_LABELS_JSON",
    "MAX_LABELS_VALUES",
    "MAX_MANIFEST",
    "MAX_PARTS_LIST",
    "MAX_PICKLE",
    "MAX_PICKLE_STEPS",
    "MAX_PLAIN_DEPTH",
    "MAX_PLAIN_VALUES",
    "MAX_RECIPE",
    "MAX_RUN_MEMORY",
    "MAX_SAMPLE_JSON",
    "MAX_SIZE",
    "MAX_STAGES",
    "MAX_TEXT",
    "MAX_TUPLE",
]

INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES: Final = ("center", "squash", "border", "center-floor", "squash-floor")
"""Of preprocessing, in bundles and manifests: timm's, and two that round an odd margin down as transformers does."""

IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Pillow's decoders that are used. Its others include EPS, which starts Ghostscript, and formats that nobody tests."""

MAX_IMAGE_PIXELS: Final = 100_000_000
"""Of an image, by its header, before it is decoded: medium-format cameras have 100 million."""

DECODING_BYTES: Final = {"WEBP": 21, "TIFF": 17, "JPEG": 13}
"""Bytes for each pixel while an image is decoded and made 8-bit RGB, measured for the worst files: WebP holds two
canvases and a copy of them, TIFF a strip or tile of all pixels in 16 bits, JPEG all coefficients where it has several
scans. Other formats, and JPEG with one scan, take 9."""

MAX_DECODING: Final = 900_000_000
"""Bytes that decoding an image may take: 100 million pixels of a PNG file, or of a JPEG file with one scan."""

MAX_RUN_MEMORY: Final = 3 << 29
"""Bytes that a process may take to run a model on the CPU, beside those for the model's files and for its activations:
0.9 GB to decode an image of MAX_IMAGE_PIXELS, and the engine's own."""

MAX_IMAGE_MEMORY: Final = 512 << 20
"""Bytes for each image of a batch that runs on the CPU: a ViT-g/14 at 518 pixels (1,370 tokens, 24 heads) takes 400 MB
for two matrices of attention in fp32 and its MLP."""

MAX_IMAGE_FILE: Final = 600 << 20
"""Bytes of an image file, which is read whole from a tar archive: MAX_IMAGE_PIXELS of 16-bit RGB, uncompressed."""

MAX_FOLDERS: Final = 200_000
"""Folders of a data set: ImageNet-21k has 22,000. Symlinks without a loop can make 2^30 of 60."""

MAX_JPEG_SCANS: Final = 100
"""Of a progressive JPEG file: encoders write about 10; each further one costs a pass over all coefficients."""

MAX_FILE: Final = 8 << 30
"""Bytes of a file that is held in memory: an engine of the largest ViT in fp32 has 5 GB, and so have its weights."""

MAX_HOLES: Final = 128 << 20
"""Bytes of a file that no disk holds and that read as zeros. They cost their author nothing, and their reader memory.
Copies by `cp --sparse` and `rsync -S` have some where weights are zero; a download that was cut short has more."""

MAX_SIZE: Final = 1 << 20
"""Tokens, classes, channels, pixels of a side, images of a batch: products of two stay far from overflow. The C++
reader has the same."""

MAX_BATCH: Final = 1 << 16
"""Images of a batch that a command or an engine is asked for: 65,536 of 224 x 224 pixels take 39 GB in fp32."""

MAX_COUNT: Final = (1 << 63) - 1
"""Bytes of a file and multiply-accumulates in a manifest: what 64 bits hold."""

MAX_TEXT: Final = 4000
"""Characters of a text in a manifest: ImageNet-21k's longest class name has 200, a reason from TensorRT's log 2,000."""

MAX_MANIFEST: Final = 64 << 20
"""Bytes of manifest.json. ImageNet-21k's class names take 1 MB; the C++ reader has the same limit."""

MAX_GOLDEN: Final = 256 << 20
"""Bytes of golden.npz: 16 images of 1024 x 1024 pixels in fp32 take 200 MB; export writes 4."""

MAX_INPUT: Final = 1 << 30
"""Bytes of a batch of images that is made of the golden ones, at the size that a manifest or user asks for: 1,783 of
224 x 224 pixels in fp32."""

MAX_IMAGE_LIST: Final = 64 << 20
"""Bytes of a list of image files: a million paths of 64 characters."""

MAX_JSON: Final = 32 << 20
"""Bytes of other JSON files: the index of a model with a million tensors, and 21,841 class names, stay below."""

MAX_JSON_VALUES: Final = 4_000_000
"""Values of a JSON file, and commas and brackets in its texts: Python takes 64 bytes for a list that has two in the
file, so that 64 MiB of them become 2 GB."""

MAX_LABELS_JSON: Final = 512 << 20
"""Bytes of labels.json: the names of ImageNet-21k's 14 million images."""

MAX_LABELS_VALUES: Final = 16_000_000
"""Values of labels.json: as above. Python takes 1.5 GB for the names of so many images."""

MAX_DOCUMENT: Final = 4 << 20
"""Bytes of a measured document (bench.json, accuracy.json): the largest published one has 92 kB."""

MAX_DOCUMENT_VALUES: Final = 200_000
"""Values of a measured document: comparing one with its schema takes 20 to 40 microseconds."""

MAX_CLASS_MAP: Final = 16 << 20
"""Bytes of a class map: ImageNet-21k's names take 1 MB."""

MAX_SAMPLE_JSON: Final = 1 << 20
"""Bytes of the JSON beside an image in a webdataset: its label, caption and EXIF data take some kB."""

MAX_RECIPE: Final = 1 << 20
"""Bytes of a recipe: one with every setting and its comments has 5 kB."""

MAX_PARTS_LIST: Final = 16 << 20
"""Bytes of a zip's list of parts: 200,000 parts, a tensor each. Python takes ten times as much memory for them."""

MAX_PICKLE: Final = 64 << 20
"""Bytes of the part of a torch.save file that holds everything but the tensors' values; a ViT's has 50 kB."""

MAX_PICKLE_STEPS: Final = 4_000_000
"""Instructions of a pickle: MAX_PLAIN_VALUES and 100,000 tensors stay below. torch too reads each by Python code."""

MAX_TUPLE: Final = 10_000
"""Values in a tuple of a pickle and in the tuples within it. A tuple that is a key of a dict is hashed: a walk through
it meets each tuple as often as it is named, so 30 tuples of two make 2^30."""

MAX_PLAIN_VALUES: Final = 500_000
"""Numbers, texts and containers in a bundle beside its tensors. A pickle can name one list many times, and a walk
through it meets each time all that is in it: 30 lists of two make 2^30."""

MAX_JSON_DEPTH: Final = 100
"""Lists and objects within each other in JSON: our documents have 10 at most; comparing two of them recurses."""

MAX_PLAIN_DEPTH: Final = 32
"""Containers within each other in a bundle's plain values: a training record has 5; recursion ends at 1,000."""

MAX_CHECKPOINT_VALUES: Final = 4_000_000
"""Tensors and plain values of a training's checkpoint: a loss for each step, and three tensors for each weight."""

MAX_FILTER_DEPTH: Final = 100
"""Hidden layers of a token filter, which has 2: each is built before the weights are compared with them."""

MAX_STAGES: Final = 1000
"""Blocks in which a reducer acts; published ones act in 3 to 12."""

MAX_ARCHIVE_HEADER: Final = 1 << 20
"""Bytes of a long name or of PAX records in a tar archive, which are read whole; a path has 4 kB."""

MAX_ARCHIVE_DEPTH: Final = 2
"""Tar archives within each other: timm reads images in an archive, and in archives of an archive."""

MAX_GRAPH_NODES: Final = 1_000_000
"""Nodes of an ONNX graph once its functions are expanded: a ViT-g has 10,000. Functions that each call another one
twice make 2^30 nodes of 30 lines."""
