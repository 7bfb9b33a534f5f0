from pathlib import Path

from setuptools import find_packages, setup

version: dict = {}
exec(Path('convnextv2_mm/version.py').read_text(), version)

setup(
    name='convnextv2_mm',
    version=version['__version__'],
    description='ConvNeXt V2 and FCMAE pre-training for OpenMMLab',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['convnextv2_mm', 'convnextv2_mm.*']),
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'onedl-mmengine>=0.10.10,<0.11',
        'onedl-mmcv>=2.3,<2.4',
        'onedl-mmdetection>=3.5,<3.6',
        'onedl-mmsegmentation>=1.4,<1.5',
        'onedl-mmpretrain>=1.3.5,<1.4',
        'filelock',
        'safetensors>=0.4.3',
    ],
    extras_require={
        'onnx': ['onnx>=1.23', 'onnxruntime>=1.31', 'onnxscript>=0.7'],
        'spconv': ['spconv>=2.3.8,<2.4'],
        'tensorboard': ['tensorboard'],
    },
)
