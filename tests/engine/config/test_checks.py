"""Values of a config that do not go together are told before a run, and right ones pass."""

import random
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.optim import CosineAnnealingLR, MultiStepLR
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from convnextv2_mm.engine.config.checks import (
    batch_warnings,
    check_fcmae,
    check_first_sample,
    check_loaders,
    check_num_classes,
    check_same_classes,
    check_topk,
    check_unused_outputs,
    class_names,
    preserve_random_state,
    schedule_warnings,
)
from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.utils.distributed import leave_process_group

ROOT = Path(__file__).parents[3]
PRETRAIN = 'demo/fcmae_convnextv2-a_shapes.py'
UNET = 'ablations/fcmae-unet_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'
GPU_DECODE = 'pretrain/fcmae_convnextv2-b_8xb64-accum8-800e-gpu-decode_in1k-224px.py'
CASCADE = 'detection/cascade-mask-rcnn_convnextv2-b_fpn_lsj-3x-fcmae_coco.py'
MASK_RCNN = 'demo/mask-rcnn_convnextv2-a_fpn_shapes.py'
UPERNET = 'demo/upernet_convnextv2-a_shapes.py'
CLASSIFIER = 'classification/convnextv2-a_8xb128-600e-fcmae_in1k-224px.py'


@cache
def read(path: str) -> Config:
    return read_config(str(ROOT / 'configs' / path))


def changed(path: str, options: dict | None = None) -> Config:
    config = Config(deepcopy(read(path).to_dict()))
    init_default_scope(config.default_scope)
    config.merge_from_dict(options or {})
    config.model.backbone.init_cfg = None
    return config


@pytest.fixture
def folders(tmp_path):
    """Images in folders of two classes for training, and of one of them for validation."""
    for name in ('train/cat', 'train/dog', 'val/dog', 'flat'):
        (tmp_path / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / '1.png'), np.zeros((64, 64, 3), np.uint8))
    return tmp_path


def loader(**dataset) -> ConfigDict:
    return ConfigDict(batch_size=2, dataset=dataset)


def own_folders(root: Path, split: str, **options) -> ConfigDict:
    kind = 'convnextv2_mm.CustomDataset'
    return loader(type=kind, data_root=str(root), data_prefix=split, **options)


# --- Data sets ---


def build(config: ConfigDict) -> BaseDataset:
    return DATASETS.build(dict(config))


def test_missing_data_is_told_with_its_dataloader(folders):
    config = changed(PRETRAIN)
    config.train_dataloader = own_folders(folders, 'train')
    config.val_dataloader = own_folders(folders, 'nothing')
    with pytest.raises(FileNotFoundError, match='^val_dataloader: data set not found: .*/nothing'):
        check_loaders(config, ('train', 'val'))


@pytest.mark.parametrize('kind', ['CustomDataset', 'ImageNet'])
def test_flat_folder_names_the_option(kind, folders):
    config = changed(PRETRAIN)
    options = dict(type=f'convnextv2_mm.{kind}', data_root=str(folders), data_prefix='flat')
    config.train_dataloader = loader(**options)
    with pytest.raises(ValueError, match='^train_dataloader: .*/flat .* with_label=False takes'):
        check_loaders(config, ['train'])
    config.train_dataloader = loader(**options, with_label=False)
    check_loaders(config, ['train'])


def test_class_folders_that_are_not_as_many_as_classes(folders):
    config = changed(PRETRAIN)
    config.train_dataloader = loader(
        type='convnextv2_mm.ImageNet', data_root=str(folders), split='train'
    )
    with pytest.raises(ValueError, match='has 2 folders of classes, but .* has 1000 classes'):
        check_loaders(config, ['train'])


def test_validation_folders_without_a_class_are_told(folders):
    """MMPreTrain would give dog the label 1 in training and 0 in validation."""
    config = changed(CLASSIFIER)
    config.train_dataloader = own_folders(folders, 'train')
    config.val_dataloader = own_folders(folders, 'val')
    trained, validated = (
        build(config.train_dataloader.dataset),
        build(config.val_dataloader.dataset),
    )
    labels = [dataset.get_data_info(len(dataset) - 1) for dataset in (trained, validated)]
    assert [info['gt_label'] for info in labels] == [1, 0]
    with pytest.raises(ValueError, match="val_dataloader .* class 0 is 'dog' instead of 'cat'"):
        check_same_classes(config)


def test_order_of_classes_counts(folders):
    config = changed(CLASSIFIER)
    config.train_dataloader = own_folders(folders, 'train', metainfo=dict(classes=('a', 'b')))
    config.val_dataloader = own_folders(folders, 'train', metainfo=dict(classes=('b', 'a')))
    with pytest.raises(ValueError, match="class 0 is 'b' instead of 'a'"):
        check_same_classes(config)


SEGMENTS = dict(type='convnextv2_mm.BaseSegDataset', data_root='.')


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        (SEGMENTS, 'BaseSegDataset has no classes: give them'),
        (SEGMENTS | dict(metainfo=dict(CLASSES=('a', 'b'))), 'metainfo.CLASSES .* mean classes'),
        (SEGMENTS | dict(metainfo=dict(classes=('thing'))), r"one class is written \('thing',\)"),
    ],
)
def test_classes_that_are_missing_or_misread(dataset, message):
    config = changed(UPERNET)
    config.train_dataloader = loader(**dataset)
    with pytest.raises(ValueError, match=f'^train_dataloader: .*{message}'):
        check_loaders(config, ['train'])


def test_class_names_are_those_of_the_built_data_set(folders):
    """Of METAINFO, the config, a file or folders, as MMPreTrain and MMDetection have them."""
    (folders / 'names.txt').write_text('one\ntwo\n')
    common = dict(data_root=str(folders), data_prefix='train')
    for options in (
        dict(type='convnextv2_mm.CustomDataset', **common),
        dict(type='convnextv2_mm.CustomDataset', classes=['x', 'y'], **common),
        dict(type='convnextv2_mm.CustomDataset', classes=str(folders / 'names.txt'), **common),
        dict(type='CustomDataset', metainfo=dict(classes=('x', 'y')), **common),
        dict(type='mmdet.CocoDataset', lazy_init=True),
        dict(type='mmdet.CocoDataset', lazy_init=True, metainfo=dict(classes=('a',))),
    ):
        init_default_scope('mmpretrain')
        built = build(ConfigDict(options))
        assert class_names(ConfigDict(options)) == tuple(built.metainfo['classes'])


# --- Number of classes ---

NUMBERS = [
    (CASCADE, {'model.roi_head.bbox_head.1.num_classes': 81}, 'model.roi_head.bbox_head.1'),
    (CASCADE, {'model.roi_head.mask_head.num_classes': 79}, 'model.roi_head.mask_head'),
    (MASK_RCNN, {'model.roi_head.bbox_head.num_classes': 7}, 'model.roi_head.bbox_head'),
    (UPERNET, {'model.decode_head.num_classes': 6}, 'model.decode_head'),
    (UPERNET, {'model.auxiliary_head.num_classes': 150}, 'model.auxiliary_head'),
    (CLASSIFIER, {'model.head.num_classes': 10}, 'model.head'),
    (CLASSIFIER, {'model.data_preprocessor.num_classes': 10}, 'model.data_preprocessor'),
]


@pytest.mark.parametrize(('path', 'options', 'key'), NUMBERS)
def test_another_number_of_classes_is_told_with_both_numbers(path, options, key):
    config = changed(path, options)
    count = len(class_names(config.train_dataloader.dataset))
    number = next(iter(options.values()))
    message = f'^{key}.num_classes is {number}, but .*train_dataloader has {count} classes'
    with pytest.raises(ValueError, match=message):
        check_num_classes(check_model(config.model), config, ['train'])


def test_default_of_a_head_counts():
    config = changed(MASK_RCNN)
    del config.model.roi_head.bbox_head['num_classes']  # MMDetection's default is 80
    with pytest.raises(ValueError, match='bbox_head.num_classes is 80, but .* has 6 classes'):
        check_num_classes(check_model(config.model), config, ['train'])


def test_number_is_compared_within_wrapped_data_sets():
    config = changed(MASK_RCNN, {'model.roi_head.bbox_head.num_classes': 7})
    inner = config.train_dataloader.dataset
    config.train_dataloader.dataset = ConfigDict(type='RepeatDataset', times=2, dataset=inner)
    with pytest.raises(ValueError, match='is 7, but .* has 6 classes'):
        check_num_classes(check_model(config.model), config, ['train'])


def test_list_of_auxiliary_heads():
    config = changed(UPERNET)
    second = ConfigDict(config.model.auxiliary_head, num_classes=2)
    config.model.auxiliary_head = [config.model.auxiliary_head, second]
    with pytest.raises(ValueError, match=r'^model\.auxiliary_head\.1\.num_classes is 2'):
        check_num_classes(check_model(config.model), config, ['train'])


def test_binary_segmentation_with_one_channel_passes():
    classes = dict(metainfo=dict(classes=('background', 'thing')))
    config = changed(UPERNET)
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.update(num_classes=2, out_channels=1, threshold=0.5)
        head.loss_decode = ConfigDict(type='CrossEntropyLoss', use_sigmoid=True)
    config.train_dataloader = loader(**SEGMENTS, **classes)
    check_num_classes(check_model(config.model), config, ['train'])


def test_panoptic_segmentation_of_mmdet_passes():
    """Things and stuff are 133 classes; the heads of objects have the 80 things."""
    folder = Path(mmdet.__file__).parent / '.mim/configs/panoptic_fpn'
    config = Config.fromfile(folder / 'panoptic-fpn_r50_fpn_1x_coco.py')
    init_default_scope('mmdet')
    config.model.backbone.init_cfg = None
    assert len(class_names(config.train_dataloader.dataset)) == 133
    check_num_classes(check_model(config.model), config, ['train', 'val'])


def test_more_guesses_than_classes(folders):
    """Accuracy would end in topk's error after the first epoch."""
    config = changed(CLASSIFIER)
    assert tuple(config.val_evaluator.topk) == (1, 5)
    config.val_dataloader = own_folders(folders, 'train')
    with pytest.raises(ValueError, match=r'val_evaluator.topk .*5.* has 2 classes'):
        check_topk(config, ['val'])


# --- FCMAE ---

SIZES = [
    ({'train_dataloader.dataset.pipeline.1.scale': 200}, 'train_dataloader: image size 200x200'),
    ({'model.mask_ratio': 0.99}, 'leaves nothing visible of 4x4 patches'),
    ({'train_dataloader.dataset.pipeline.1.scale': 32}, 'leaves nothing visible of 1x1 patches'),
    ({'model.head.patch_size': 16}, 'model.head.patch_size 16 .* encoder is 32'),
    ({'model.neck.patch_size': 64}, 'model.neck.patch_size 64'),
    ({'model.neck.in_channels': 640}, 'model.neck.in_channels 640 .* backbone has 320'),
    ({'model.backbone.arch': 'nano'}, 'model.neck.in_channels 320 .* backbone has 640'),
]


@pytest.mark.parametrize(('options', 'message'), SIZES)
def test_sizes_of_fcmae(options, message):
    config = changed(PRETRAIN, options)
    with pytest.raises(ValueError, match=message):
        check_fcmae(check_model(config.model), config, ['train', 'val'])


def test_sizes_of_the_decoder_with_skips():
    config = changed(UNET, {'model.neck.in_channels': [64, 128, 256, 512]})
    with pytest.raises(ValueError, match=r'\[64, 128, 256, 512\] .* has \[128, 256, 512, 1024\]'):
        check_fcmae(check_model(config.model), config, ['train'])


def test_size_of_images_decoded_on_the_device():
    config = changed(GPU_DECODE, {'model.data_preprocessor.crop_size': 200})
    with pytest.raises(ValueError, match='image size 200x200'):
        check_fcmae(check_model(config.model), config, ['train'])


def test_size_that_depends_on_the_file_is_seen_in_the_first_sample():
    config = changed(PRETRAIN)
    del config.train_dataloader.dataset.pipeline[1]
    model = check_model(config.model)
    check_fcmae(model, config, ['train'])
    samples = [dict(inputs=torch.zeros(3, 50, 64))]
    with pytest.raises(ValueError, match='^train_dataloader: image size 50x64 is not allowed'):
        check_first_sample('train_dataloader', samples, model)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_mask_head_needs_masks_to_train(split):
    config = read(MASK_RCNN).copy()
    config.model.backbone.init_cfg = None
    model = check_model(config.model)
    objects = InstanceData(bboxes=torch.tensor([[0.0, 0, 9, 9]]), labels=torch.tensor([0]))
    sample = DetDataSample(gt_instances=objects)
    samples = [dict(inputs=torch.zeros(3, 64, 64), data_samples=sample)]
    key = f'{split}_dataloader'
    if split == 'val':
        check_first_sample(key, samples, model)
        return
    with pytest.raises(ValueError, match='^train_dataloader: its objects have no masks, but the'):
        check_first_sample(key, samples, model)
    objects.masks = BitmapMasks([np.ones((64, 64), np.uint8)], 64, 64)
    check_first_sample(key, samples, model)
    without = config.model.copy()
    without.roi_head = without.roi_head | dict(mask_head=None)
    del objects.masks
    check_first_sample(key, samples, check_model(without))


# --- Schedule and batch ---


def rates(scheduler: type, length: int, **options) -> list[float]:
    """The learning rate of each step, from MMEngine's scheduler itself."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = scheduler(optimizer, by_epoch=False, **options)
    found = []
    for _ in range(length):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step()
    return found


SCHEDULES = [
    (dict(type='LinearLR', by_epoch=False, end=2000), 'does not come to its end, 2000: .* 1000 it'),
    (dict(type='LinearLR', end=20, convert_to_iter_based=True), '20: the run has 10 epochs'),
    (dict(type='MultiStepLR', milestones=[8, 12]), r'milestones \[12\] that never come: .* 10 ep'),
    (dict(type='CosineAnnealingLR', end=8), 'ends at 8, but the run has 10 epochs'),
    (dict(type='CosineAnnealingLR', T_max=8), 'ends at 8, but the run has 10 epochs'),
    (dict(type='PolyLR', by_epoch=False, end=160000), 'not come to its end, 160000: .* 1000'),
    (dict(type='ConstantLR', begin=10, end=12), 'never acts: it begins at 10'),
]


@pytest.mark.parametrize(('scheduler', 'message'), SCHEDULES)
def test_schedules_that_do_not_fit_are_told(scheduler, message):
    (warning,) = schedule_warnings([ConfigDict(scheduler)], 1000, epoch_length=100)
    assert scheduler['type'] in warning
    assert re.search(message, warning)


def test_what_is_warned_of_is_so():
    assert rates(MultiStepLR, 10, milestones=[12]) == [1.0] * 10
    cosine = rates(CosineAnnealingLR, 10, T_max=8, end=8)
    assert cosine[7] == cosine[8] == cosine[9] < 0.05
    assert rates(CosineAnnealingLR, 10, T_max=20, end=20)[-1] > 0.5


@pytest.mark.parametrize(
    'schedulers',
    [
        None,
        ConfigDict(type='CosineAnnealingLR', end=10),
        [dict(type='LinearLR', by_epoch=False, end=1000), dict(type='CosineAnnealingLR')],
        # RTMDet's: a cosine in the second half
        [dict(type='CosineAnnealingLR', begin=5, end=10, T_max=5)],
        # YOLOX's: constant in the last epochs
        [dict(type='CosineAnnealingLR', T_max=8, end=8), dict(type='ConstantLR', begin=8, end=10)],
        [dict(type='MultiStepLR', end=36, milestones=[8, 9])],
    ],
)
def test_schedules_that_fit_pass(schedulers):
    assert not list(schedule_warnings(schedulers, 1000, epoch_length=100))


def test_epochs_in_a_run_of_iterations_are_told():
    (warning,) = schedule_warnings([dict(type='MultiStepLR', milestones=[2])], 1000)
    assert 'counts epochs, but the run counts iterations, 1000 of them' in warning


def test_learning_rate_for_another_batch_is_told():
    config = changed(MASK_RCNN, {'auto_scale_lr': dict(base_batch_size=32)})
    (warning,) = batch_warnings(config, world_size=2)
    assert 'lr 0.002 is meant for 32 images a step' in warning
    assert 'has 16: batch_size 8 x 2 processes x 1 batches a step' in warning
    assert warning.endswith('--auto-scale-lr scales it to 0.001')
    assert not list(batch_warnings(config, world_size=4))
    config.optim_wrapper.accumulative_counts = 2
    assert not list(batch_warnings(config, world_size=2))
    config.auto_scale_lr.enable = True
    assert not list(batch_warnings(config, world_size=1))


def test_random_states_stay():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with preserve_random_state():
        assert draw() == expected
    assert draw() == expected


class Pyramid(nn.Module):
    """A backbone and its neck, as a detector has them."""

    def __init__(self, model: ConfigDict) -> None:
        super().__init__()
        self.backbone, self.neck = MODELS.build(model.backbone), MODELS.build(model.neck)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return sum(x.mean() for x in self.neck(self.backbone(images)))


@pytest.mark.parametrize(
    ('out_indices', 'start_level', 'stops'),
    [([0, 1, 2, 3], 1, True), ([1, 2, 3], 0, False), ([0, 1, 2, 3], 0, False)],
)
def test_outputs_without_use_stop_several_processes(out_indices, start_level, stops, tmp_path):
    """As PyTorch finds in the second step."""
    init_default_scope('mmdet')
    arch = dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32])
    channels = [arch['channels'][i] for i in out_indices]
    backbone = dict(type='convnextv2_mm.ConvNeXtV2', arch=arch, gap_before_final_norm=False)
    neck = dict(type='FPN', in_channels=channels, out_channels=8, num_outs=4)
    neck['start_level'] = start_level
    config = Config(dict(model=dict(backbone=backbone | dict(out_indices=out_indices), neck=neck)))
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Pyramid(config.model))
        model(torch.randn(1, 3, 64, 64)).backward()
        if stops:
            with pytest.raises(RuntimeError, match='Expected to have finished reduction'):
                model(torch.randn(1, 3, 64, 64)).backward()
        else:
            model(torch.randn(1, 3, 64, 64)).backward()
    finally:
        leave_process_group()
    if stops:
        with pytest.raises(ValueError, match=r'outputs \[0\] of the backbone have no use'):
            check_unused_outputs(config)
        config.find_unused_parameters = True
    check_unused_outputs(config)
