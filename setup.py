import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

version: dict = {}
exec(Path('convnextv2_mm/version.py').read_text(), version)


class BuildWithMIM(build_py):
    """Also puts what is not Python code of the package where MMEngine and MIM look for it.

    That is ``convnextv2_mm/.mim``, as in the packages of OpenMMLab: copies in a wheel, links to the
    working tree in an editable installation.
    """

    def run(self) -> None:
        super().run()
        is_editable = getattr(self, 'editable_mode', False)
        target = Path('.' if is_editable else self.build_lib, 'convnextv2_mm/.mim')
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            if is_editable and os.name == 'posix':
                (target / name).symlink_to(Path('../..', name))
            elif Path(name).is_dir():
                ignore = shutil.ignore_patterns('__pycache__')
                shutil.copytree(name, target / name, ignore=ignore)
            elif Path(name).is_file():
                shutil.copy(name, target / name)


setup(
    name='convnextv2_mm',
    version=version['__version__'],
    description='ConvNeXt V2 and FCMAE pre-training for OpenMMLab',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    entry_points=dict(console_scripts=['convnextv2 = convnextv2_mm.cli:main']),
    packages=find_packages(include=['convnextv2_mm', 'convnextv2_mm.*']),
    cmdclass=dict(build_py=BuildWithMIM),
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
        'matplotlib',
        'numpy',
        'opencv-python-headless',
        'pillow',
        'prettytable',
        'pycocotools',
        'rich',
        'safetensors>=0.4.3',
        'tqdm',
    ],
    extras_require={
        'onnx': ['onnx>=1.23', 'onnxruntime>=1.23', 'onnxscript>=0.7'],
        'spconv': ['spconv>=2.3.8,<2.4'],
        'tensorboard': ['tensorboard'],
    },
)
