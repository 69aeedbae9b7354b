"""The usual names of columns in sets of others: plain words, so that the options' help needs no heavy import."""

IMAGE_COLUMNS = ("image", "pixel_values", "img")
LABEL_COLUMNS = ("label", "labels", "annotation", "semantic_segmentation", "mask", "segmentation")
NAME_COLUMNS = ("name", "filename", "file_name", "id", "image_id", "__key__")
