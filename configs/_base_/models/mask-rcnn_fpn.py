# Mask R-CNN of mmdet with a ConvNeXt V2 backbone, and with our own parts where they have the same
# results in less time: convnextv2_mm/models/heads/roi_heads.py. Weights keep mmdet's names.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
custom_imports = dict(imports=['convnextv2_mm', 'convnextv2_mm.models.detectors'])

roi_extractor = dict(roi_layer=dict(use_torchvision=True))
training_part = dict(
    assigner=dict(type='convnextv2_mm.MaxIoUAssigner'),
    sampler=dict(type='convnextv2_mm.RandomSampler'),
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='convnextv2_mm.ConvNeXtV2',
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    ),
    roi_head=dict(
        type='convnextv2_mm.StandardRoIHead',
        bbox_roi_extractor=roi_extractor,
        mask_roi_extractor=roi_extractor,
        mask_head=dict(type='convnextv2_mm.FCNMaskHead'),
    ),
    train_cfg=dict(rpn=training_part, rcnn=training_part),
)
