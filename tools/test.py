"""Evaluate a checkpoint: reconstruction loss, accuracy, mAP or mIoU, as the config says."""

import argparse
import os

from convnextv2_mm.apis.inference import check_weights
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.engine.config.checks import (
    check_fcmae,
    check_first_sample,
    check_loaders,
    check_num_classes,
    check_topk,
)
from convnextv2_mm.engine.config.coco import check_tta
from convnextv2_mm.engine.config.ignore_index import check_ignore_index
from convnextv2_mm.engine.config.keys import check_keys
from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.errors import BadData, exit_on_user_error
from convnextv2_mm.utils.distributed import destroying_process_group

from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--work-dir', help='folder for the log')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to a pickle file')
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures of the predictions')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation of the config')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def build_runner(args: argparse.Namespace) -> Runner:
    config = read_config(args.config, args.cfg_options, args.work_dir)
    config.launcher = args.launcher
    check_keys(config)
    if not config.get('test_dataloader'):
        raise ValueError(f'config {args.config} describes no test: it has no test_dataloader')
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out {args.out} is not allowed: the name must end in .pkl or .pickle')
    check_loaders(config, ['test'])
    config.model.get('backbone', {}).pop('init_cfg', None)  # the checkpoint has all weights
    model = check_model(config.model)
    check_num_classes(model, config, ['test'])
    check_topk(config, ['test'])
    check_fcmae(model, config, ['test'])
    check_weights(model, args.checkpoint)
    config.load_from = args.checkpoint

    if args.tta:
        if 'tta_pipeline' not in config or 'tta_model' not in config:
            raise ValueError(f'config {args.config} has no tta_pipeline and tta_model for --tta')
        check_tta(config)
        config.model = ConfigDict(**config.tta_model, module=config.model)
        config.test_dataloader.dataset.pipeline = config.tta_pipeline
    check_ignore_index(config, model, ['test'])
    if args.out:
        dump = 'DumpDetResults' if config.default_scope == 'mmdet' else 'DumpResults'
        evaluators = config.test_evaluator
        evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
        config.test_evaluator = [*evaluators, dict(type=dump, out_file_path=args.out)]
    if args.show_dir:
        hook = dict(type='convnextv2_mm.VisualizationHook', out_dir=args.show_dir)
        config.custom_hooks = [*config.get('custom_hooks', []), hook]

    runner = Runner.from_cfg(config)
    if args.launcher == 'none':
        runner.model = revert_sync_batchnorm(runner.model)  # SyncBN needs a process group
    check_first_sample('test_dataloader', runner.test_loop.dataloader.dataset, model)
    return runner


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        runner = build_runner(args)
    with exit_on_user_error((BadData,)), destroying_process_group():
        runner.test()


if __name__ == '__main__':
    main()
