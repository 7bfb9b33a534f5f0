"""tools/features.py: the features of timm's ConvNeXt V2 from the same weights."""

import cv2
import numpy as np
import pytest
import timm
import torch
from run_tool import run_tool

from convnextv2_mm.datasets.shapes.drawing import draw

CONFIG = 'convnextv2_mm::classification/convnextv2-a_8xb128-600e-fcmae_in1k-224px.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('features')
    (folder / 'images/more').mkdir(parents=True)
    for i, name in enumerate(('b.png', 'more/a.png')):
        cv2.imwrite(str(folder / 'images' / name), draw(0, 'val', i, 224).image[..., ::-1])
    torch.manual_seed(0)
    model = timm.create_model('convnextv2_atto', features_only=True)
    torch.save(timm.create_model('convnextv2_atto').state_dict(), folder / 'timm.pth')
    model.load_state_dict(
        {
            k.replace('stages.', 'stages_').replace('stem.', 'stem_'): v
            for k, v in torch.load(folder / 'timm.pth').items()
            if not k.startswith(('head', 'norm_pre'))
        },
        strict=True,
    )
    return folder, model.eval()


def test_features_are_timms(folder):
    folder, model = folder
    out, images = folder / 'out', folder / 'images'
    resize = 'test_dataloader.dataset.pipeline.1.scale=224'
    options = ['--cfg-options', resize, '--maps', 1, 3, '--device', 'cpu']
    run_tool('features', CONFIG, folder / 'timm.pth', images, '--out', out, *options)
    found = np.load(out / 'features.npz')
    assert found['images'].tolist() == [str(images / 'b.png'), str(images / 'more/a.png')]
    for i, name in enumerate(('b', 'a')):
        pixels = cv2.imread(found['images'][i])[..., ::-1].astype(np.float32)
        pixels = (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        with torch.no_grad():
            stages = model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
        maps = np.load(out / f'{name}.npz')
        assert sorted(maps) == ['stage1', 'stage3']
        for stage, expected in enumerate(stages):
            scale = expected.abs().max().item()
            pooled = expected[0].mean((1, 2)).numpy()
            np.testing.assert_allclose(found[f'stage{stage}'][i], pooled, atol=1e-4 * scale)
            if stage in (1, 3):
                np.testing.assert_allclose(
                    maps[f'stage{stage}'], expected[0].numpy(), atol=1e-4 * scale
                )


def test_a_stage_that_does_not_exist_is_named(folder, capsys):
    folder, _ = folder
    with pytest.raises(SystemExit) as stop:
        out = ['--out', folder / 'none', '--maps', 4]
        run_tool('features', CONFIG, folder / 'timm.pth', folder / 'images', *out)
    assert stop.value.code == 2
    assert 'error: --maps 4 is not allowed: it must be 0 to 3' in capsys.readouterr().err
    assert not (folder / 'none').exists()
