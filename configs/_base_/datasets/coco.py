# COCO, without a training pipeline: damaged images are left out, labels go by their names.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

load = dict(type='convnextv2_mm.LoadImageFromFile')
# Polygons: a third of the time and a thousandth of the bytes of bitmaps, and exact boxes after a
# crop. Crowd regions have none and drop out; they would be ignored anyway.
load_polygons = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
test_pipeline = [
    load,
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(dataset=dict(type='convnextv2_mm.CocoDataset', skip_bad_data=True))
val_dataloader = dict(dataset=dict(type='convnextv2_mm.CocoDataset', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='convnextv2_mm.CocoMetric')
test_evaluator = val_evaluator
