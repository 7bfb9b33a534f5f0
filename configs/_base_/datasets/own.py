# What all recipes for own data share; None follows from `own` and the data, docs/own_data.md.
own = dict(
    val_fraction=0.2,  # of the images, where none are given to validate on
    channels=None,  # by default those of the first .npy or .tif, else 3
    size=None,
    epochs=None,
    batch=None,
    arch=None,
    init=None,  # file, convnextv2://NAME, or 'none'; by default the published weights
    seed=0,  # of the split
)
load = dict(type='convnextv2_mm.LoadImageFromFile', channels=None)
train_dataloader = dict(
    batch_size=None,
    num_workers=None,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(ann_file=None, skip_bad_data=True),
)
val_dataloader = dict(
    batch_size=None,
    num_workers=None,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file=None),
)
test_dataloader = val_dataloader
