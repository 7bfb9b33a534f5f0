"""``init_cfg=dict(type='Pretrained', checkpoint=...)`` with the files of other libraries, and with
those of the ablations."""

import logging
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmpretrain.models import ConvNeXt
from other_libraries import SMALL, build, randomize, save
from timm.models import adapt_input_conv

from convnextv2_mm.checkpoints import (
    FORMATS,
    MODEL_ZOO,
    read_checkpoint,
    write_checkpoint,
)
from convnextv2_mm.checkpoints.pretrained import adapt_stem
from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.models import FCMAE, ConvNeXtV2

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A classifier of Atto, read from timm."""
    folder = tmp_path_factory.mktemp('source')
    save('timm', build('timm', 'atto'), folder / 'timm.safetensors')
    return read_checkpoint(folder / 'timm.safetensors')


@pytest.fixture(scope='module')
def files(source, tmp_path_factory):
    """The same weights in the files of each library."""
    folder = tmp_path_factory.mktemp('files')
    paths = {to: folder / (to if to == 'transformers' else f'{to}.pth') for to in FORMATS}
    for to, path in paths.items():
        write_checkpoint(source, path, to)
    return paths


def assert_loaded(backbone, source, norm=True):
    state = backbone.state_dict()
    expected = {
        name.removeprefix('backbone.'): tensor
        for name, tensor in source.weights.items()
        if name.startswith('backbone.') and (norm or 'norm3' not in name)
    }
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert len(expected) > 100


@pytest.mark.parametrize('prefix', [None, 'backbone.', 'backbone'])
@pytest.mark.parametrize('to', FORMATS)
def test_a_backbone_reads_every_layout(to, prefix, files, source):
    init = dict(type='Pretrained', checkpoint=str(files[to]), prefix=prefix)
    backbone = ConvNeXtV2('atto', init_cfg=init)
    backbone.init_weights()
    assert_loaded(backbone, source)


@pytest.mark.parametrize(
    ('path', 'to'),
    [
        ('configs/demo/mask-rcnn_convnextv2-a_fpn_shapes.py', 'timm'),
        ('configs/demo/upernet_convnextv2-a_shapes.py', 'transformers'),
        ('configs/demo/fcmae_convnextv2-a_shapes.py', 'official'),
    ],
)
def test_a_task_reads_other_layouts(path, to, files, source):
    config = read_config(str(ROOT / path))
    config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(files[to]))
    check_model(config.model)
    model = MODELS.build(config.model)
    model.backbone.init_weights()
    assert_loaded(model.backbone, source, norm='fcmae' not in path)


def test_an_url_is_read(files, source, website, cache):
    folder, address = website
    (folder / 'timm.pth').write_bytes(files['timm'].read_bytes())
    init = dict(type='Pretrained', checkpoint=f'{address}timm.pth')
    backbone = ConvNeXtV2('atto', init_cfg=init)
    backbone.init_weights()
    assert_loaded(backbone, source)


def test_a_name_is_read_by_all(files, source, cache):
    file = cache / Path(MODEL_ZOO['atto_fcmae_ft_in1k'].official).name
    file.write_bytes(files['official'].read_bytes())
    name = 'convnextv2://atto_fcmae_ft_in1k'
    for prefix in (None, 'backbone.'):
        init = dict(type='Pretrained', checkpoint=name, prefix=prefix)
        backbone = ConvNeXtV2('atto', init_cfg=init)
        backbone.init_weights()
        assert_loaded(backbone, source)
    # load_from of a whole model, and the backbone of mmpretrain
    model = build('mmpretrain', 'atto')
    load_checkpoint(model, name, strict=True)
    assert_loaded(model.backbone, source)
    init = dict(type='Pretrained', checkpoint=name, prefix='backbone.')
    version = dict(use_grn=True, layer_scale_init_value=0.0)
    backbone = ConvNeXt('atto', **version, init_cfg=init)
    backbone.init_weights()
    assert_loaded(backbone, source)


def test_other_modules_are_left_to_mmengine(tmp_path):
    linear = randomize(torch.nn.Linear(3, 4))
    state = {f'part.{name}': tensor for name, tensor in linear.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'file.pth')

    class Layer(BaseModule):
        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.weight = torch.nn.Parameter(torch.zeros(4, 3))

    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'), prefix='part.')
    layer = Layer(init)
    layer.init_weights()
    assert torch.equal(layer.weight, linear.weight)


V1 = dict(use_grn=False, layer_scale_init_value=1e-6)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='atto', **V1), 'is of a ConvNeXt V2 atto, .*, the config builds a ConvNeXt V1'),
        (dict(arch='femto'), 'is of a ConvNeXt V2 atto, .*, the config builds a ConvNeXt V2 femto'),
        (
            dict(arch=SMALL),
            'the config builds a ConvNeXt V2 of a custom size, depths 1,1',
        ),
        (dict(arch='atto', in_channels=4), 'the config builds .*, 4 image channels'),
    ],
)
def test_weights_of_another_network_are_refused(options, message, files):
    init = dict(type='Pretrained', checkpoint=str(files['timm']))
    backbone = ConvNeXtV2(**options, init_cfg=init)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        backbone.init_weights()
    assert all(torch.equal(backbone.state_dict()[name], before[name]) for name in before)


def test_v1_given_as_v2_is_refused(tmp_path):
    save('timm', build('timm', 'tiny', version=1), tmp_path / 'v1.safetensors')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'v1.safetensors'))
    with pytest.raises(ValueError, match='a ConvNeXt V1 tiny, .* V2 tiny, .* use_grn=False'):
        ConvNeXtV2('tiny', init_cfg=init).init_weights()
    backbone = ConvNeXtV2('tiny', **V1, init_cfg=init)
    backbone.init_weights()
    assert backbone.stages[0][0].gamma.abs().max() > 1e-3


def pretrain(path, neck='FCMAEDecoder', **backbone):
    """Write a checkpoint of FCMAE as MMEngine does."""
    model = FCMAE(
        backbone=dict(type='convnextv2_mm.SparseConvNeXtV2', arch=SMALL, **backbone),
        neck=dict(type=f'convnextv2_mm.{neck}', in_channels=40, embed_dims=32),
        head=dict(type='convnextv2_mm.FCMAEHead'),
    )
    torch.save(dict(meta=dict(), state_dict=randomize(model).state_dict()), path)
    return model.backbone


@pytest.fixture
def warnings():
    """What the log says from WARNING on."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def fine_tune(path, **backbone):
    init = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model = ConvNeXtV2(SMALL, init_cfg=init, **backbone)
    model.init_weights()
    return model


FEATURE_NORMS = {
    'l1': dict(type='GRN', aggregation='l1'),
    'LRN': dict(type='LRN'),
    'BN': dict(type='BN'),
    'LN': dict(type='LN'),
    'SE': dict(type='SE', ratio=4),
    'CBAM': dict(type='CBAM', kernel_size=3),
}


@pytest.mark.parametrize('name', FEATURE_NORMS)
def test_what_replaces_grn_is_read(name, tmp_path):
    path = tmp_path / 'fcmae.pth'
    trained = pretrain(path, feature_norm=FEATURE_NORMS[name])
    state = fine_tune(path, feature_norm=FEATURE_NORMS[name]).state_dict()
    assert all(torch.equal(state[k], v) for k, v in trained.state_dict().items())


@pytest.mark.parametrize(
    ('trained', 'wanted', 'message'),
    [
        (None, 'LN', 'is of a ConvNeXt V2 .*, the config builds a ConvNeXt V2 .* LN in place of'),
        ('LN', None, 'LN in place of GRN, the config builds a ConvNeXt V2 .* channels 8,16,24,40$'),
        ('LN', 'BN', 'LN in place of GRN, the config builds .* BN in place of GRN'),
        ('l1', None, 'a variant of GRN, the config builds'),
        (None, 'l1', 'the config builds .* a variant of GRN'),
    ],
)
def test_another_replacement_is_refused(trained, wanted, message, tmp_path):
    options = [dict(feature_norm=FEATURE_NORMS[name]) if name else {} for name in (trained, wanted)]
    pretrain(tmp_path / 'fcmae.pth', **options[0])
    with pytest.raises(ValueError, match=message):
        fine_tune(tmp_path / 'fcmae.pth', **options[1])


def test_another_shape_of_a_replacement_is_refused(tmp_path):
    pretrain(tmp_path / 'fcmae.pth', feature_norm=dict(type='SE', ratio=4))
    with pytest.raises(
        ValueError, match=r'fc1.weight has shape \(8, 32\), the config .* \(2, 32\)'
    ):
        fine_tune(tmp_path / 'fcmae.pth', feature_norm=dict(type='SE'))


def test_grn_is_dropped_by_one_key(tmp_path, warnings):
    trained = pretrain(tmp_path / 'fcmae.pth').state_dict()
    state = fine_tune(tmp_path / 'fcmae.pth', use_grn=False).state_dict()
    assert {k for k in trained if k not in state} == {k for k in trained if '.grn.' in k}
    assert all(torch.equal(v, trained[k]) for k, v in state.items() if not k.startswith('norm3'))
    assert 'fcmae.pth is of a ConvNeXt V2 of a custom size' in warnings[0]
    assert warnings[0].endswith('GRN is left out: the config has none')


def test_grn_is_added_by_one_key(tmp_path, warnings):
    trained = pretrain(tmp_path / 'fcmae.pth', **V1).state_dict()
    added = fine_tune(tmp_path / 'fcmae.pth', use_grn=True, layer_scale_init_value=1e-6)
    assert warnings[0].endswith('GRN is added: it starts as identity')
    state = added.state_dict()
    assert all(torch.equal(state[k], v) for k, v in trained.items())
    assert not any(v.any() for k, v in state.items() if '.grn.' in k)
    assert any('.grn.' in k for k in state)
    images = torch.randn(1, 3, 64, 64)
    same = fine_tune(tmp_path / 'fcmae.pth', **V1)
    torch.testing.assert_close(added(images)[0], same(images)[0])


def test_weights_with_the_same_grn_say_nothing(tmp_path, warnings):
    pretrain(tmp_path / 'fcmae.pth')
    fine_tune(tmp_path / 'fcmae.pth')
    assert not any('GRN' in line for line in warnings)


@pytest.mark.parametrize(
    ('trained', 'wanted'),
    [
        (dict(), V1),  # LayerScale would be left as it was drawn
        (V1, dict()),  # LayerScale would be lost
        (dict(), dict(use_grn=False, in_channels=4)),
    ],
)
def test_grn_excuses_no_other_difference(trained, wanted, tmp_path):
    pretrain(tmp_path / 'fcmae.pth', **trained)
    with pytest.raises(ValueError, match='the config builds a'):
        fine_tune(tmp_path / 'fcmae.pth', **wanted)


@pytest.mark.parametrize('neck', ['UNetDecoder', 'TransformerDecoder'])
def test_other_decoders_stay_behind(neck, tmp_path):
    path = tmp_path / 'fcmae.pth'
    trained = pretrain(path, neck=neck)
    state = fine_tune(path).state_dict()
    assert all(torch.equal(state[k], v) for k, v in trained.state_dict().items())
    checkpoint = read_checkpoint(path)
    assert not checkpoint.architecture.has_decoder
    assert any('not the decoder of FCMAE' in reason for _, reason in checkpoint.dropped)


@pytest.mark.parametrize('to', FORMATS)
def test_replacements_go_to_our_layout_only(to, tmp_path):
    pretrain(tmp_path / 'fcmae.pth', feature_norm=dict(type='LN'))
    checkpoint = read_checkpoint(tmp_path / 'fcmae.pth')
    if to == 'mm':
        write_checkpoint(checkpoint, tmp_path / 'out.pth', to)
        assert read_checkpoint(tmp_path / 'out.pth').architecture == checkpoint.architecture
    else:
        with pytest.raises(ValueError, match='feature_norm'):
            write_checkpoint(checkpoint, tmp_path / 'out', to)


@pytest.mark.parametrize('in_channels', [1, 2, 4, 6, 13])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_a_stem_adapts_as_timms(in_channels, dtype):
    weight = torch.randn(8, 3, 4, 4).to(dtype)
    before = weight.clone()
    assert torch.equal(
        adapt_stem(weight, in_channels), adapt_input_conv(in_channels, weight.clone())
    )
    assert torch.equal(weight, before)


@pytest.mark.parametrize('in_channels', [1, 4])
def test_weights_for_rgb_fit_other_channels_on_request(in_channels, source, files):
    init = dict(type='Pretrained', checkpoint=str(files['timm']))
    build = dict(type='convnextv2_mm.ConvNeXtV2', arch='atto', in_channels=in_channels)
    with pytest.raises(ValueError, match='adapt_channels=True makes weights for RGB fit'):
        check_model(dict(build, init_cfg=init))
    adapting = dict(build, init_cfg=dict(init, adapt_channels=True))
    check_model(adapting)
    backbone = MODELS.build(adapting)
    backbone.init_weights()
    stem = source.weights['backbone.downsample_layers.0.0.weight']
    found = backbone.state_dict()
    assert torch.equal(
        found['downsample_layers.0.0.weight'], adapt_input_conv(in_channels, stem.clone())
    )
    name = 'stages.3.1.pointwise_conv2.weight'
    assert torch.equal(found[name], source.weights[f'backbone.{name}'])


def test_weights_for_other_channels_do_not_adapt():
    with pytest.raises(ValueError, match='takes weights for 3 channels, these are for 4'):
        adapt_stem(torch.zeros(8, 4, 4, 4), 1)
