"""Our parts of (Cascade) Mask R-CNN against mmdet's: targets, samples, losses and gradients."""

from pathlib import Path
from types import SimpleNamespace

import mmdet
import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules import assigners, samplers
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks, mask_target
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from convnextv2_mm.models.heads.fcn_mask_head import FCNMaskHead
from convnextv2_mm.models.task_modules.max_iou_assigner import MaxIoUAssigner
from convnextv2_mm.models.task_modules.random_sampler import RandomSampler

OURS = Path(__file__).parents[3] / 'configs/_base_/models/mask-rcnn_fpn.py'
CASCADE = OURS.with_name('cascade-mask-rcnn_fpn.py')
STOCK = Path(mmdet.__file__).parent / '.mim/configs/_base_/models/mask-rcnn_r50_fpn.py'


def random_masks(rng, kind, count, height, width):
    """Objects of one to three star-shaped parts, some of them partly outside the image."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    star = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    objects = []
    for _ in range(count):
        parts = []
        for _ in range(rng.integers(1, 4)):
            center, size = rng.uniform(0, [width, height]), rng.uniform(2, 40, 2)
            parts.append((center + rng.uniform(0.5, 1, (12, 1)) * size * star).ravel())
        objects.append(parts)
    masks = PolygonMasks(objects, height, width)
    if kind == 'bitmap':
        return BitmapMasks(masks.to_ndarray().astype(np.uint8), height, width)
    return masks


def random_boxes(rng, count, height, width):
    """Of all sizes down to a fraction of a pixel, and up to 20 pixels outside the image."""
    corners = rng.uniform(-20, [width + 20, height + 20], (count, 2, 2))
    small = count // 4
    corners[:small, 1] = corners[:small, 0] + rng.uniform(0, 3, (small, 2))
    return torch.from_numpy(np.sort(corners, axis=1).reshape(count, 4).astype(np.float32))


@pytest.mark.parametrize('kind', ['bitmap', 'polygon'])
@pytest.mark.parametrize('mask_size', [28, (7, 13)])
def test_mask_targets_are_those_of_mmdet(kind, mask_size):
    rng = np.random.default_rng(0)
    sampled, instances = [], []
    for num_rois, num_masks, height, width in ((60, 5, 90, 130), (0, 2, 50, 50), (25, 1, 128, 64)):
        boxes = random_boxes(rng, num_rois, height, width)
        inds = torch.from_numpy(rng.integers(0, num_masks, num_rois))
        sampled.append(SimpleNamespace(pos_priors=boxes, pos_assigned_gt_inds=inds))
        masks = random_masks(rng, kind, num_masks, height, width)
        instances.append(SimpleNamespace(masks=masks))
    head = FCNMaskHead(num_convs=1, in_channels=1, conv_out_channels=1, num_classes=1)
    config = ConfigDict(mask_size=mask_size)
    boxes = [sample.pos_priors.clone() for sample in sampled]  # mmdet clips them in place
    targets = head.get_targets(sampled, instances, config)
    for sample, before in zip(sampled, boxes, strict=True):
        assert torch.equal(sample.pos_priors, before)
    inds = [sample.pos_assigned_gt_inds for sample in sampled]
    oracle = mask_target(boxes, inds, [gt.masks for gt in instances], config)
    assert targets.dtype == oracle.dtype
    assert torch.equal(targets, oracle)
    assert 0.05 < targets.mean() < 0.95


def test_soft_mask_targets_are_those_of_mmdet():
    rng = np.random.default_rng(1)
    boxes, masks = random_boxes(rng, 20, 60, 60), random_masks(rng, 'bitmap', 3, 60, 60)
    inds = torch.from_numpy(rng.integers(0, 3, 20))
    head = FCNMaskHead(num_convs=1, in_channels=1, conv_out_channels=1, num_classes=1)
    config = ConfigDict(mask_size=14, soft_mask_target=True)
    sampled = SimpleNamespace(pos_priors=boxes, pos_assigned_gt_inds=inds)
    targets = head.get_targets([sampled], [SimpleNamespace(masks=masks)], config)
    assert torch.equal(targets, mask_target([boxes], [inds], [masks], config))
    assert ((targets > 0) & (targets < 1)).any()


@pytest.mark.parametrize('low_quality', [True, False])
@pytest.mark.parametrize('all_nearest', [True, False])
@pytest.mark.parametrize('negative', [0.3, (0.1, 0.3)])
def test_assignments_are_those_of_mmdet(low_quality, all_nearest, negative):
    options = dict(pos_iou_thr=0.7, neg_iou_thr=negative, min_pos_iou=0.3)
    options |= dict(match_low_quality=low_quality, gt_max_assign_all=all_nearest)
    ours, stock = MaxIoUAssigner(**options), assigners.MaxIoUAssigner(**options)
    generator = torch.Generator().manual_seed(0)
    for num_gts, num_priors in ((1, 50), (7, 300), (40, 20), (3, 1), (0, 10), (4, 0)):
        # In tenths, so that priors tie; and some that are to be ignored, as mmdet marks them.
        overlaps = torch.randint(0, 11, (num_gts, num_priors), generator=generator) / 10
        overlaps *= torch.rand(num_gts, 1, generator=generator).round(decimals=1)
        overlaps[:, torch.rand(num_priors, generator=generator) < 0.1] = -1
        labels = torch.randint(0, 80, (num_gts,), generator=generator)
        results = [a.assign_wrt_overlaps(overlaps, labels) for a in (ours, stock)]
        for name in ('num_gts', 'gt_inds', 'max_overlaps', 'labels'):
            value, oracle = (getattr(result, name) for result in results)
            assert type(value) is type(oracle)
            assert value == oracle if name == 'num_gts' else torch.equal(value, oracle)


def test_samples_are_those_of_mmdet():
    classes = (RandomSampler, samplers.RandomSampler)
    ours, stock = (sampler(num=64, pos_fraction=0.25) for sampler in classes)
    gallery = torch.arange(5000) * 3
    for num in (1, 100, 5000):
        drawn = []
        for sampler in (ours, stock):
            torch.manual_seed(num)  # on a CPU both draw the same
            drawn.append(sampler.random_choice(gallery, num))
        assert torch.equal(*drawn)
        assert len(drawn[0].unique()) == num


def small(path):
    """Mask R-CNN of a config with little in its neck and heads, on ConvNeXt V2-Atto."""
    config = Config.fromfile(path)
    backbone = dict(type='convnextv2_mm.ConvNeXtV2', arch='atto', out_indices=[0, 1, 2, 3])
    config.model.backbone = dict(gap_before_final_norm=False, **backbone)
    extractor = dict(out_channels=16, finest_scale=16)
    head = dict(in_channels=16)
    changes = dict(
        neck=dict(in_channels=[40, 80, 160, 320], out_channels=16),
        rpn_head=dict(head, feat_channels=16, anchor_generator=dict(scales=[4])),
        roi_head=dict(
            bbox_roi_extractor=extractor,
            bbox_head=dict(head, fc_out_channels=32),
            mask_roi_extractor=extractor,
            mask_head=dict(head, num_convs=1, conv_out_channels=16),
        ),
        train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
        test_cfg=dict(rpn=dict(max_per_img=30), rcnn=dict(score_thr=0.0, max_per_img=5)),
    )
    config.merge_from_dict(dict(model=changes))
    init_default_scope('mmdet')
    return MODELS.build(config.model)


def small_cascade(ours):
    """Cascade Mask R-CNN as small, with our parts or with those of mmdet that they replace."""
    text = CASCADE.read_text()
    if not ours:
        for part in ('CascadeRoIHead', 'FCNMaskHead', 'MaxIoUAssigner', 'RandomSampler'):
            assert f'convnextv2_mm.{part}' in text
            text = text.replace(f'convnextv2_mm.{part}', part)
    model = Config.fromstring(text, '.py').model
    model.backbone.arch = 'atto'
    model.test_cfg.rcnn.nms.update(type='soft_nms')
    model.neck.update(in_channels=[40, 80, 160, 320], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.rpn_head.anchor_generator.scales = [4]
    roi_head = model.roi_head
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.update(out_channels=16, finest_scale=16)
    for head in roi_head.bbox_head:
        head.update(in_channels=16, conv_out_channels=16, fc_out_channels=32)
    roi_head.mask_head.update(in_channels=16, num_convs=1, conv_out_channels=16)
    for stage in model.train_cfg.rcnn:
        stage.sampler.num = 64
    model.test_cfg.rpn.max_per_img = 30
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    init_default_scope('mmdet')
    return revert_sync_batchnorm(MODELS.build(model))


@pytest.fixture(scope='module', params=['mask', 'cascade'])
def models(request):
    torch.manual_seed(0)
    if request.param == 'mask':
        ours, stock = small(OURS), small(STOCK)
    else:
        ours, stock = small_cascade(ours=True), small_cascade(ours=False)
    ours.init_weights()
    stock.load_state_dict(ours.state_dict())  # the same names
    return ours, stock


def batch(kind):
    rng = np.random.default_rng(0)
    samples = []
    for count in (4, 2):
        masks = random_masks(rng, kind, count, 96, 128)
        boxes = HorizontalBoxes.from_instance_masks(masks)
        boxes.clip_((96, 128))
        meta = dict(img_shape=(96, 128), ori_shape=(96, 128), scale_factor=(1.0, 1.0))
        sample = DetDataSample(metainfo=meta)
        labels = torch.from_numpy(rng.integers(0, 80, count))
        sample.gt_instances = InstanceData(bboxes=boxes.tensor, labels=labels, masks=masks)
        samples.append(sample)
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 96, 128), dtype=np.uint8))
    return dict(inputs=list(images), data_samples=samples)


@pytest.mark.parametrize('kind', ['bitmap', 'polygon'])
def test_losses_and_gradients_are_those_of_mmdet(models, kind):
    losses, gradients = [], []
    for model in models:
        model.train().zero_grad()
        torch.manual_seed(0)  # of the samplers
        data = model.data_preprocessor(batch(kind), training=True)
        loss, log = model.parse_losses(model(**data, mode='loss'))
        loss.backward()
        losses.append({name: value.item() for name, value in log.items()})
        gradients.append({k: v.grad for k, v in model.named_parameters() if v.grad is not None})
    assert all(value > 0 for name, value in losses[0].items() if 'loss_mask' in name)
    assert any('loss_mask' in name for name in losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        oracle = gradients[1][name]
        torch.testing.assert_close(gradient, oracle, rtol=0, atol=1e-4 * oracle.abs().max().item())


def test_predictions_are_those_of_mmdet(models):
    predictions = []
    for model in models:
        model.eval()
        with torch.no_grad():
            data = model.data_preprocessor(batch('bitmap'))
            predictions.append(model(**data, mode='predict'))
    for ours, stock in zip(*predictions, strict=True):
        ours, stock = ours.pred_instances, stock.pred_instances
        assert len(ours) == 5
        for name in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(ours[name], stock[name])
        assert torch.equal(ours.masks, stock.masks)


def test_extractors_share_float32_features_in_bfloat16_training(models):
    model, seen = models[0].train(), []
    extractors = [m for m in model.modules() if isinstance(m, SingleRoIExtractor)]
    hooks = [e.register_forward_pre_hook(lambda _, args: seen.append(args)) for e in extractors]
    with torch.autocast('cpu', torch.bfloat16):
        data = model.data_preprocessor(batch('polygon'), training=True)
        levels = model.extract_feat(data['inputs'])
        model(**data, mode='loss')
    for hook in hooks:
        hook.remove()
    # The heads get the layout of the backbone, which convolutions on a GPU are fastest in.
    for level in levels:
        assert level.dtype == torch.bfloat16
        assert level.is_contiguous(memory_format=torch.channels_last)
    assert len(seen) == len(extractors) >= 2
    (first, _), *_ = seen
    for features, rois in seen:
        assert rois.dtype == torch.float32
        for ours, other in zip(features, first, strict=True):
            assert ours.dtype == torch.float32  # which the RoIs are cast to
            assert ours.is_contiguous()
            assert ours.data_ptr() == other.data_ptr()
