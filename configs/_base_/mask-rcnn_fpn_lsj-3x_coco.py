# Mask R-CNN on COCO as in the paper; single-scale test with Soft-NMS.
_base_ = [
    './models/mask-rcnn_fpn.py',
    './datasets/coco_lsj-1024px.py',
    './schedules/coco_36e.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)]
    ),
    test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms', iou_threshold=0.5))),
)
train_dataloader = dict(batch_size=4)  # 8 GPUs x 4 images = 32
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP'))
randomness = dict(seed=0, diff_rank_seed=True)
