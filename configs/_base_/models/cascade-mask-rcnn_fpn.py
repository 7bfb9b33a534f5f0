# Cascade Mask R-CNN of mmdet with the box heads of ConvNeXt V1's (four convolutions, then a linear
# layer, GIoU loss on decoded boxes), and our drop-in parts as in mask-rcnn_fpn.py.
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
custom_imports = dict(imports=['convnextv2_mm', 'convnextv2_mm.models.detectors'])

roi_extractor = dict(roi_layer=dict(use_torchvision=True))
model = dict(
    backbone=dict(
        _delete_=True,
        type='convnextv2_mm.ConvNeXtV2',
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    ),
    roi_head=dict(
        type='convnextv2_mm.CascadeRoIHead',
        bbox_roi_extractor=roi_extractor,
        mask_roi_extractor=roi_extractor,
        mask_head=dict(type='convnextv2_mm.FCNMaskHead'),
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=stds,
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for stds in (
                [0.1, 0.1, 0.2, 0.2],
                [0.05, 0.05, 0.1, 0.1],
                [0.033, 0.033, 0.067, 0.067],
            )
        ],
    ),
    train_cfg=dict(
        rpn=dict(
            # As in Mask R-CNN. With 0, the run ends at the first image that the jitter makes so
            # small that no anchor lies within it.
            allowed_border=-1,
            assigner=dict(type='convnextv2_mm.MaxIoUAssigner'),
            sampler=dict(type='convnextv2_mm.RandomSampler'),
        ),
        rcnn=[
            dict(
                assigner=dict(
                    type='convnextv2_mm.MaxIoUAssigner',
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type='convnextv2_mm.RandomSampler',
                    num=512,
                    pos_fraction=0.25,
                    neg_pos_ub=-1,
                    add_gt_as_proposals=True,
                ),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
)
