# Faster R-CNN for images with boxes in COCO's format: mask-rcnn.py without masks.
_base_ = './mask-rcnn.py'

model = dict(type='FasterRCNN', roi_head=dict(mask_roi_extractor=None, mask_head=None))
train_pipeline = [
    _base_.load,
    dict(type='LoadAnnotations', with_bbox=True),
    *_base_.augmentation,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
