"""Export a backbone, classifier or segmentor to ONNX, and check it with onnxruntime.

Input ``images`` are ``(N, 3, H, W)``, normalised as the config says; N, H and W are free, from 32
pixels. A classifier gives ``logits`` ``(N, classes)``, a segmentor those of ``(N, classes, H, W)``,
a backbone its outputs as ``stage1`` to ``stage4``.
"""

import argparse
from pathlib import Path

from convnextv2_mm.apis.export import export_onnx
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('destination', metavar='OUT.onnx', type=Path)
    parser.add_argument('--backbone', action='store_true', help='the backbone of the model alone')
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_user_error():
        outputs, differences = export_onnx(**vars(args))
    for shape, difference in differences.items():
        size = 'x'.join(map(str, shape))
        print(f'images {size}: largest relative difference {difference:.1e}')
    print(f'written {args.destination}: {", ".join(outputs)}')


if __name__ == '__main__':
    main()
