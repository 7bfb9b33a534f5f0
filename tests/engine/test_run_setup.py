"""What the tools tell a user who cannot be served."""

import math
import socket
from datetime import timedelta

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import distributed, nn

from convnextv2_mm.engine.run_setup import (
    check_learning_rates,
    join_cpu_processes,
    one_sentence_errors,
)


def test_first_sentence_is_told(capsys):
    with pytest.raises(SystemExit) as stop, one_sentence_errors():
        raise ValueError('size 3 is not allowed: choose 4. More that nobody reads.')
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: size 3 is not allowed: choose 4.\n'


def test_bare_assertion_tells_its_source(capsys):
    with pytest.raises(SystemExit), one_sentence_errors():
        raise AssertionError
    error = capsys.readouterr().err
    assert error.startswith('error: AssertionError in ')
    assert error.endswith('raise AssertionError\n')


@pytest.fixture
def launched(monkeypatch):
    """The environment of a process that torchrun has started."""
    with socket.create_server(('127.0.0.1', 0)) as found:
        port = found.getsockname()[1]
    place = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    yield
    distributed.destroy_process_group()


class PartlyUsed(BaseModel):
    """A model of which a step uses one half."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.used(inputs).mean())


def two_steps(work_dir, **options):
    """Train on a CPU as one of several processes, and return the wrapped model."""
    config = Config(dict(options, model=PartlyUsed(), launcher='pytorch', work_dir=str(work_dir)))
    join_cpu_processes(config)
    wrapper = config.model_wrapper_cfg
    runner = Runner(
        config.model, config.work_dir, launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper)
    )
    optimizer = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    for _ in range(2):
        runner.model.train_step(dict(inputs=torch.ones(1, 2)), optimizer)
    return runner.model


def test_unused_parameters_end_a_run_of_several_processes(launched, tmp_path):
    with pytest.raises(RuntimeError, match='find_unused_parameters=True'):
        two_steps(tmp_path)


@pytest.mark.parametrize(
    'options',
    [
        dict(find_unused_parameters=True),
        dict(model_wrapper_cfg=dict(find_unused_parameters=True, broadcast_buffers=True)),
    ],
)
def test_unused_parameters_that_are_looked_for(options, launched, tmp_path):
    model = two_steps(tmp_path, env_cfg=dict(dist_cfg=dict(timeout=77)), **options)
    assert model.find_unused_parameters
    assert model.broadcast_buffers == ('model_wrapper_cfg' in options)
    group = distributed.group.WORLD._get_backend(torch.device('cpu'))
    assert group.options._timeout == timedelta(seconds=77)


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('optimizer.lr', -0.1),
        ('optimizer.lr', math.nan),
        ('optimizer.lr', '1e-3'),
        ('paramwise_cfg.bias_lr_mult', -1),
        ('paramwise_cfg.custom_keys.head.lr_mult', math.inf),
    ],
)
def test_learning_rates_are_looked_at_before_the_run(place, value):
    config = Config(dict(optimizer=dict(type='SGD', lr=0.0), clip_grad=dict(max_norm=-1)))
    check_learning_rates(config)
    config.merge_from_dict({place: value})
    with pytest.raises(ValueError, match=f'^optim_wrapper.{place} {value!r} is not allowed'):
        check_learning_rates(config)
