"""A small, fast segmentation model that learns the labels of a run: splits, training, ONNX."""
