# Mask R-CNN on COCO for small budgets: 12 epochs, short sides of 480 to 800. Not in the paper.
_base_ = [
    './models/mask-rcnn_fpn.py',
    './datasets/coco_ms-800px.py',
    './schedules/coco_12e.py',
    'mmdet::_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=2)  # 8 GPUs x 2 images = 16
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP'))
randomness = dict(seed=0, diff_rank_seed=True)
