# The paper reports 51.0 box AP and 45.6 mask AP †. Weights without FCMAE are not published: these
# are ours. Decay and drop path as with FCMAE †
_base_ = ['../_base_/sizes/base.py', '../_base_/mask-rcnn_fpn_lsj-3x_coco.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/convnextv2-b_8xb128-accum4-300e_in1k-224px/epoch_300.pth',
        ),
    ),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95, decay_type='group_wise'))
