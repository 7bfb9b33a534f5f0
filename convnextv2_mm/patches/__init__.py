"""Everything that changes another library.

Importing the package does three things, and nothing to a library that has what it needs:

* Python finds a stand-in for ``mmcv._ext`` where mmcv has no compiled operators (:mod:`.mmcv_ops`);
* MMEngine finds configs behind ``convnextv2_mm::`` and ``mmseg::`` (:mod:`.config_packages`);
* our registries become children of MMEngine's (:mod:`convnextv2_mm.registry`), and its checkpoint
  loader learns ``convnextv2://NAME`` (:mod:`convnextv2_mm.checkpoints`).

:func:`safe_loading` is for those who ask for it. The functions of :mod:`convnextv2_mm.apis` do.
:mod:`.loading_pipelines` is for the command that runs MMDetection's tools.
"""


def safe_loading() -> None:
    """Let MMEngine read every checkpoint without running anything that is in it.

    MMEngine's own loaders run a pickle that they cannot read safely, and ``Runner.resume`` runs the
    text of a config in it. Afterwards ``load_from``, ``resume`` and ``Pretrained`` of any model
    read as :func:`convnextv2_mm.checkpoints.reading.read_file` does, for the rest of the process.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    from ..checkpoints.reading import SCHEMES, load_from_anywhere

    CheckpointLoader.register_scheme(SCHEMES, load_from_anywhere, force=True)
