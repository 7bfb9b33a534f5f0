# UPerNet of mmseg with a ConvNeXt V2 backbone.
_base_ = 'mmseg::_base_/models/upernet_convnext.py'
custom_imports = dict(_delete_=True, imports=['convnextv2_mm'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='convnextv2_mm.ConvNeXtV2',
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
