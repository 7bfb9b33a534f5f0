"""Which files are images."""

from torchvision.datasets.folder import IMG_EXTENSIONS

IMAGE_SUFFIXES = (*IMG_EXTENSIONS, '.npy')
