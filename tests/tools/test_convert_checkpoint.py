"""tools/convert_checkpoint.py from file to file, and what mistakes end in."""

import hashlib
from pathlib import Path

import pytest
import timm
import torch
import transformers
from mmengine.registry import MODELS
from run_tool import run_tool

from convnextv2_mm.engine.config.reading import read_config

ROOT = Path(__file__).parents[2]


def convert(*arguments: object) -> None:
    run_tool('convert_checkpoint', *arguments)


def randomize(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def states_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope='module')
def atto():
    return randomize(timm.create_model('convnextv2_atto', num_classes=6))


@pytest.fixture
def source(atto, tmp_path):
    content = dict(state_dict=atto.state_dict(), optimizer=dict(state={}), epoch=3)
    torch.save(content, tmp_path / 'source.pth')
    return tmp_path / 'source.pth'


def test_round_trip_through_all_layouts(atto, source, tmp_path, capsys):
    """timm to ours, official, transformers, mmpretrain, and timm again."""
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    path = source
    for to, name in (
        ('mm', 'mm.pth'),
        ('official', 'official.pt'),
        ('transformers', 'folder'),
        ('mmpretrain', 'mmpretrain.pth'),
        ('timm', 'timm.safetensors'),
    ):
        convert(path, tmp_path / name, '--to', to)
        path = tmp_path / name
    printed = capsys.readouterr().out
    assert printed.startswith(
        'found    ConvNeXt V2 atto, depths 2,2,6,2, channels 40,80,160,320, 6 classes\n'
        'layout   timm, under state_dict\n'
        'dropped  optimizer, epoch: state of the training\n'
        f'written  {tmp_path}/mm.pth\n'
    )
    again = timm.create_model('convnextv2_atto', num_classes=6, checkpoint_path=str(path))
    assert states_equal(again.state_dict(), atto.state_dict())
    images = torch.randn(2, 3, 64, 96)
    folder = transformers.ConvNextV2ForImageClassification.from_pretrained(tmp_path / 'folder')
    with torch.no_grad():
        difference = folder(images).logits - atto(images)
    assert difference.abs().max() < 1e-5
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    names = ['folder', 'mm.pth', 'mmpretrain.pth', 'official.pt', 'source.pth', 'timm.safetensors']
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.fixture
def opened(capsys):
    """Evaluate what the tool says in its last line."""

    def evaluate(*arguments):
        convert(*arguments)
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith('open it  ')
        return eval(line.removeprefix('open it  '), dict(timm=timm, transformers=transformers))

    return evaluate


DETECTOR = 'configs/demo/mask-rcnn_convnextv2-a_fpn_shapes.py'
PRETRAINING = 'configs/demo/fcmae_convnextv2-a_shapes.py'


@pytest.mark.parametrize('config', [DETECTOR, PRETRAINING])
def test_backbone_of_a_task_opens_elsewhere(config, opened, tmp_path):
    config = read_config(str(ROOT / config))
    config.model.backbone.pop('init_cfg', None)
    model = randomize(MODELS.build(config.model))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'task.pth')
    backbone = model.backbone.state_dict()
    convert(tmp_path / 'task.pth', tmp_path / 'backbone.pth', '--task', 'backbone')
    written = torch.load(tmp_path / 'backbone.pth', weights_only=True)['state_dict']
    assert states_equal(written, {f'backbone.{name}': v for name, v in backbone.items()})

    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = images.permute(0, 2, 3, 1)
        *_, expected = model.backbone._run_stages(x)
        expected = expected.permute(0, 3, 1, 2)
        in_timm = opened(tmp_path / 'task.pth', tmp_path / 'timm.pth', '--to', 'timm').eval()
        assert (in_timm.forward_features(images) - expected).abs().max() < 1e-5
        there = opened(tmp_path / 'task.pth', tmp_path / 'folder', '--to', 'transformers')
        assert isinstance(there, transformers.ConvNextV2Model)
        assert (there(images).last_hidden_state - expected).abs().max() < 1e-5


def test_fcmae_keeps_its_decoder(tmp_path):
    config = read_config(str(ROOT / PRETRAINING))
    model = randomize(MODELS.build(config.model))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'ours.pth')
    convert(tmp_path / 'ours.pth', tmp_path / 'official.pth', '--to', 'official')
    official = torch.load(tmp_path / 'official.pth', weights_only=True)['model']
    assert official['encoder.stages.0.0.dwconv.kernel'].shape == (49, 40)
    convert(tmp_path / 'official.pth', tmp_path / 'again.pth', '--task', 'pretraining')
    again = torch.load(tmp_path / 'again.pth', weights_only=True)['state_dict']
    assert states_equal(again, dict(model.state_dict()))


def test_one_of_several_backbones_is_chosen_by_its_prefix(tmp_path, capsys):
    """As in MoCo v3, whose second backbone is the moving average of the first."""
    backbones = [
        randomize(MODELS.build(dict(type='convnextv2_mm.ConvNeXtV2', arch='atto')))
        for _ in range(2)
    ]
    prefixes = ('backbone.', 'momentum_encoder.module.0.')
    weights = {
        prefix + name: tensor
        for prefix, backbone in zip(prefixes, backbones, strict=True)
        for name, tensor in backbone.state_dict().items()
    }
    torch.save(dict(state_dict=weights), tmp_path / 'moco.pth')
    with pytest.raises(SystemExit):
        convert(tmp_path / 'moco.pth', tmp_path / 'none.pth')
    assert "choose one by its prefix, of 'backbone.', 'momentum_enc" in capsys.readouterr().err
    for prefix, backbone in zip(prefixes, backbones, strict=True):
        convert(tmp_path / 'moco.pth', tmp_path / 'one.pth', '--prefix', prefix)
        found = torch.load(tmp_path / 'one.pth')['state_dict']
        found = {name.removeprefix('backbone.'): tensor for name, tensor in found.items()}
        assert states_equal(found, backbone.state_dict())


def test_names_of_the_classes_go_along(atto, tmp_path):
    classes = ['circle', 'square', 'star', 'ring', 'cross', 'moon']
    content = dict(state_dict=atto.state_dict(), meta=dict(dataset_meta=dict(classes=classes)))
    torch.save(content, tmp_path / 'source.pth')
    convert(tmp_path / 'source.pth', tmp_path / 'mm.pth')
    convert(tmp_path / 'mm.pth', tmp_path / 'folder', '--to', 'transformers')
    config = transformers.AutoConfig.from_pretrained(tmp_path / 'folder')
    assert config.id2label == dict(enumerate(classes))


MISTAKES = {
    'no file': (['no.pth', 'out.pth'], 'checkpoint no.pth does not exist'),
    'not a checkpoint': (['text.pth', 'out.pth'], 'text.pth is not a checkpoint'),
    'truncated': (['short.pth', 'out.pth'], 'short.pth is not a checkpoint, or not a whole one'),
    'half the names': (['half.pth', 'out.pth'], 'half.pth is not of a whole ConvNeXt: '),
    'same file': (['source.pth', 'source.pth'], 'source.pth is the source'),
    'no folder': (['source.pth', 'no/out.pth'], 'folder no of no/out.pth does not exist'),
    'folder for a file': (['source.pth', 'there'], 'there is a folder: mm needs a file'),
    'folder exists': (['source.pth', 'there', '--to', 'transformers'], 'there exists: transf'),
    'file for a folder': (
        ['source.pth', 'out.pth', '--to', 'transformers'],
        'out.pth is the name of a file: transformers needs a folder',
    ),
    'safetensors for mm': (['source.pth', 'out.safetensors'], 'only timm reads safetensors'),
    'no decoder': (
        ['source.pth', 'out.pth', '--task', 'pretraining'],
        'task pretraining needs a decoder of FCMAE, and the checkpoint has none',
    ),
    'wrong name': (['convnextv2://base', 'out.pth'], "no published weights are named 'base'"),
}


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_sentence(
    arguments, message, atto, source, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path('text.pth').write_text('# Title\n')
    Path('short.pth').write_bytes(source.read_bytes()[:-1000])
    torch.save(dict(list(atto.state_dict().items())[::2]), 'half.pth')
    Path('there').mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as end:
        convert(*arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and error.count('\n') == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize('to', ['mm', 'transformers'])
def test_a_failed_write_leaves_nothing(to, source, tmp_path, monkeypatch):
    def fail(content, path, **_):
        Path(path).write_bytes(b'half')
        raise OSError('no space left on device')

    (tmp_path / 'mm').write_bytes(b'before')
    monkeypatch.setattr('convnextv2_mm.checkpoints.writing.torch.save', fail)
    monkeypatch.setattr('convnextv2_mm.checkpoints.writing.save_file', fail)
    with pytest.raises(SystemExit):
        convert(source, tmp_path / to, '--to', to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['mm', 'source.pth']
    assert (tmp_path / 'mm').read_bytes() == b'before'
