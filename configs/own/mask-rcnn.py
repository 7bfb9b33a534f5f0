# Mask R-CNN for images with annotations in COCO's format: docs/own_data.md.
_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/own.py',
    '../_base_/schedules/own.py',
    'mmdet::_base_/default_runtime.py',
]

own = dict(
    task='detect',
    images=None,  # folder of the files that the annotations name
    train=None,  # json file
    val=None,  # json file; by default a part of `train`
    val_images=None,  # their folder, if it is another one
    classes=None,  # names of the categories to learn; by default all
)

model = dict(
    backbone=dict(arch=None, in_channels=None, drop_path_rate=0.1),
    # Neck and heads are as wide as mmdet's, or half of it with Atto, Femto and Pico.
    neck=dict(in_channels=None, out_channels=None),
    rpn_head=dict(in_channels=None, feat_channels=None),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=None),
        bbox_head=dict(in_channels=None, num_classes=None),
        mask_roi_extractor=dict(out_channels=None),
        mask_head=dict(in_channels=None, conv_out_channels=None, num_classes=None),
    ),
    # A quarter of COCO's 512 regions of an image: less time, and few images have so many objects.
    train_cfg=dict(rpn_proposal=dict(max_per_img=500), rcnn=dict(sampler=dict(num=128))),
)

augmentation = [
    dict(type='RandomResize', scale=None, ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=None,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1.0, 1.0), keep_empty=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_pipeline = [
    _base_.load,
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=None),
    *augmentation,
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=None, keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(
    type='convnextv2_mm.CocoDataset',
    data_prefix=dict(img=None),
    metainfo=dict(classes=None),
)
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(test_mode=True, pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='convnextv2_mm.CocoMetric', metric=['bbox', 'segm'], ann_file=None)
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=None),
    checkpoint=dict(interval=None, max_keep_ckpts=1, save_best='coco/segm_mAP'),
)
randomness = dict(seed=0, diff_rank_seed=True)
