# Mask R-CNN on COCO as in the paper; single-scale test with Soft-NMS.
_base_ = ['./mask-rcnn_fpn.py', './lsj-3x_coco.py']

model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)]
    ),
    test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms', iou_threshold=0.5))),
)
