"""How pictures are scaled for encoders trained on ImageNet: mean and deviation of red, green and blue in [0, 1]."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
