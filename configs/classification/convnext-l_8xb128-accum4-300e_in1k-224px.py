# ConvNeXt V1 reports 84.3.
_base_ = ['../_base_/sizes/large.py', '../_base_/classifier_300e_in1k-224px.py']

model = dict(
    backbone=dict(arch=_base_.arch, drop_path_rate=0.5, use_grn=False, layer_scale_init_value=1e-6),
    head=dict(in_channels=_base_.channels[-1]),
)
