"""Evaluating a checkpoint as a config describes it."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner

from ..engine.config.checks import (
    check_channels,
    check_fcmae,
    check_first_sample,
    check_loaders,
    check_num_classes,
    check_topk,
)
from ..engine.config.coco import check_tta
from ..engine.config.ignore_index import check_ignore_index
from ..engine.config.keys import check_keys
from ..engine.config.reading import check_model, read_config
from ..engine.runner.short_log import long_messages_to_file
from ..patches import safe_loading
from .inference import check_weights


class EvaluationRunner(Runner):
    """MMEngine's, which leaves the config of a training in the same work dir as it is.

    What a test changes (``--tta``, ``--out``, ``--cfg-options``) would end up in it.
    """

    def dump_config(self) -> None:
        """Write the config of the test beside its log."""
        if self.rank == 0:
            name = Path(self.cfg.filename or 'config.py').name
            self.cfg.dump(str(Path(self.log_dir, name)))


def test(config: str | Path | Config, checkpoint: str, **options) -> dict[str, float]:
    """Evaluate a checkpoint: reconstruction loss, accuracy, mAP or mIoU, as the config says.

    Args:
        config: As for :func:`build_runner`.
        checkpoint: As for :func:`build_runner`.
        **options: Those of :func:`build_runner`.

    Returns:
        The metrics, under the names of the log.

    Raises:
        Exception: As :func:`build_runner` does, before the first image.
        BadData: If an image or label cannot be used.
    """
    return build_runner(config, checkpoint, **options).test()


def build_runner(
    config: str | Path | Config,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> Runner:
    """Build a runner for a test, and find mistakes before the first image.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config, which stays as it is.
        checkpoint: File, URL, or ``convnextv2://NAME``.
        work_dir: Folder for the log; by default that of the config.
        out: Pickle file for the predictions.
        show_dir: Folder for pictures of the predictions.
        tta: With the test-time augmentation of the config.
        cfg_options: Changes of the config.
        launcher: ``pytorch``, ``slurm`` or ``mpi`` in one of several processes.

    Raises:
        FileNotFoundError: If the config, data or the checkpoint does not exist.
        ValueError: If something in the config cannot be used, or the checkpoint does not fit it.
        BadData: If the first sample cannot be used.
    """
    safe_loading()
    name = config.filename if isinstance(config, Config) else config
    config = read_config(config, cfg_options, work_dir)
    config.launcher = launcher
    check_keys(config)
    if not config.get('test_dataloader'):
        raise ValueError(f'config {name} describes no test: it has no test_dataloader')
    if out and not out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out {out} is not allowed: the name must end in .pkl or .pickle')
    check_loaders(config, ['test'])
    config.model.get('backbone', {}).pop('init_cfg', None)  # the checkpoint has all weights
    model = check_model(config.model)
    check_channels(model, config)
    check_num_classes(model, config, ['test'])
    check_topk(config, ['test'])
    check_fcmae(model, config, ['test'])
    check_weights(model, checkpoint)
    config.load_from = checkpoint

    if tta:
        if 'tta_pipeline' not in config or 'tta_model' not in config:
            raise ValueError(f'config {name} has no tta_pipeline and tta_model for --tta')
        check_tta(config)
        config.model = ConfigDict(**config.tta_model, module=config.model)
        config.test_dataloader.dataset.pipeline = config.tta_pipeline
    check_ignore_index(config, model, ['test'])
    if out:
        dump = 'DumpDetResults' if config.default_scope == 'mmdet' else 'DumpResults'
        evaluators = config.test_evaluator
        evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
        config.test_evaluator = [*evaluators, dict(type=dump, out_file_path=out)]
    if show_dir:
        hook = dict(type='convnextv2_mm.VisualizationHook', out_dir=show_dir)
        config.custom_hooks = [*config.get('custom_hooks', []), hook]

    with long_messages_to_file():
        runner = EvaluationRunner.from_cfg(config)
    if launcher == 'none':
        runner.model = revert_sync_batchnorm(runner.model)  # SyncBN needs a process group
    check_first_sample('test_dataloader', runner.test_loop.dataloader.dataset, model)
    return runner
