# GRN only in pre-training: its weights are left out here. Paper: much worse than GRN in both.
_base_ = '../classification/convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py'

model = dict(backbone=dict(use_grn=False))
