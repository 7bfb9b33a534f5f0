# The loader only reads JPEG files; the GPU decodes, crops, flips and normalises them.
_base_ = './fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(
    data_preprocessor=dict(
        _delete_=True,
        type='convnextv2_mm.JPEGDataPreprocessor',
        mean=_base_.data_preprocessor.mean,
        std=_base_.data_preprocessor.std,
        bgr_to_rgb=True,
        crop_size=224,
        crop_ratio_range=(0.2, 1.0),
        flip_prob=0.5,
    )
)
train_dataloader = dict(
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(pipeline=[dict(type='convnextv2_mm.LoadEncodedJPEG'), dict(type='PackInputs')]),
)
