"""Show what FCMAE learns while it trains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, FUNCTIONS
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ...analysis import (
    choose_blocks,
    cosine_distance,
    grn_norms,
    watch_features,
)
from ...models import FCMAE
from ...registry import HOOKS
from ...utils.distributed import unwrap_model
from ...visualization.drawing import draw_reconstruction


@HOOKS.register_module()
class FCMAEMonitorHook(Hook):
    """Show the same images of the test set again and again while FCMAE trains.

    Before training and at an interval, the visualizer of the run gets, at the iteration:

    * a picture ``reconstructions``: each image masked, reconstructed and original. Its mask depends
      on its file name only, so it is the same every time;
    * ``monitor/loss``: mean reconstruction loss of these images;
    * ``cosine_distance/BLOCK``: diversity of the expansion features of each block, see
      :func:`~convnextv2_mm.analysis.cosine_distance`, with the whole image visible. A block whose
      channels become alike falls towards 0;
    * ``grn_gamma/BLOCK`` and ``grn_beta/BLOCK``: norms of the parameters of GRN.

    It computes in float32, on the first process alone, and leaves weights, gradients, training
    modes and random states as they were: training goes as it would without.

    Args:
        interval: Epochs between two measurements, or iterations.
        by_epoch: Whether ``interval`` counts epochs.
        num_images: Images, evenly spaced over the data set of ``test_dataloader``.

    Raises:
        ValueError: If ``interval`` or ``num_images`` is not positive; before training, if the model
            is not FCMAE or is sharded, or the config has no ``test_dataloader``.
    """

    def __init__(self, interval: int = 1, by_epoch: bool = True, num_images: int = 8) -> None:
        for name, value in (('interval', interval), ('num_images', num_images)):
            if value < 1:
                raise ValueError(f'{name} {value} of FCMAEMonitorHook is not allowed: 1 is least')
        self.interval = interval
        self.by_epoch = by_epoch
        self.num_images = num_images

    def before_train(self, runner: Runner) -> None:
        """Read the images, and show what the initial weights make of them."""
        model = unwrap_model(runner.model)
        if not isinstance(model, FCMAE):
            raise ValueError(f'FCMAEMonitorHook is for FCMAE, not for {type(model).__name__}')
        if isinstance(runner.model, FullyShardedDataParallel):
            raise ValueError(
                'FCMAEMonitorHook is not for FSDP, no process has all weights: set custom_hooks=[]'
            )
        loader = runner.cfg.get('test_dataloader')
        if not loader:
            raise ValueError('FCMAEMonitorHook shows images of test_dataloader: there is none')
        with _undisturbed(model):
            # On every process: a data set that is drawn on first use waits for all of them.
            dataset = DATASETS.build(loader.dataset)
            count = min(self.num_images, len(dataset))
            chosen = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
            collate = FUNCTIONS.get(loader.get('collate_fn', dict(type='pseudo_collate')).type)
            self.batch = collate([dataset[i] for i in chosen])
        self._show(runner, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        """Show, after every ``interval`` epochs and the last."""
        if self.by_epoch and (
            self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)
        ):
            self._show(runner, runner.iter)

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        """Show, after every ``interval`` iterations and the last."""
        if not self.by_epoch and (
            self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)
        ):
            self._show(runner, runner.iter + 1)

    @master_only
    def _show(self, runner: Runner, step: int) -> None:
        model = unwrap_model(runner.model)
        distances: dict[str, float] = {}

        def measure(name: str, features: torch.Tensor) -> None:
            distances[name] = cosine_distance(features).mean().item()

        with _undisturbed(model), torch.no_grad():
            data = model.data_preprocessor(self.batch, False)
            samples = model.predict(**data)
            with watch_features(choose_blocks(model.backbone), measure):
                model.backbone(data['inputs'])

        loss = float(np.mean([sample.reconstruction_loss for sample in samples]))
        scalars = {'iter': step, 'monitor/loss': loss}  # as the training log has it
        scalars |= {f'cosine_distance/{name}': value for name, value in distances.items()}
        for name, (gamma, beta) in grn_norms(model.backbone.state_dict()).items():
            scalars |= {f'grn_gamma/{name}': gamma, f'grn_beta/{name}': beta}
        runner.visualizer.add_scalars(scalars, step=step)
        grid = np.concatenate([draw_reconstruction(sample, runner.cfg) for sample in samples])
        runner.visualizer.add_image('reconstructions', grid, step=step)
        least = min(distances, key=distances.__getitem__)
        runner.logger.info(
            f'{len(samples)} images of the test set: loss {loss:.4f}, cosine distance '
            f'{np.mean([*distances.values()]):.3f}, least {distances[least]:.3f} at {least}'
        )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, not compiled; afterwards modes and all random states are as before.

    Hooks watch the layers for a single call: it would be compiled anew each time.
    """
    modes = [(part, part.training) for part in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.compiler.set_stance('force_eager'):
        try:
            model.eval()
            yield
        finally:
            for part, training in modes:
                part.training = training
            random.setstate(python_state)
            np.random.set_state(numpy_state)
