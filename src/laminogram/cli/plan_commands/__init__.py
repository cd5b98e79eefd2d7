"""The commands of `laminogram plan`: one small file each, found by its file name."""
