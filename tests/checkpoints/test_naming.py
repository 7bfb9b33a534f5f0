"""Weights of timm, transformers and mmpretrain in and out: the same bits, and the same network.

The module ends with a table of the largest differences of logits; ``pytest -m ''`` adds Base,
Large and Huge. The oracle for the official layouts is their description, computed here, and timm's
filter.
"""

import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from other_libraries import LIBRARIES, SMALL, build, logits, reopen, save
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor

from convnextv2_mm.checkpoints import read_checkpoint, write_checkpoint
from convnextv2_mm.models import FCMAE, ConvNeXtV2

SIZES = ('atto', 'femto', 'pico', 'nano', 'tiny', 'base', 'large', 'huge')
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def table(request):
    """Differences by size, library and direction; printed when all have been measured."""
    differences = {}
    yield differences
    capture = request.config.pluginmanager.getplugin('capturemanager')
    with capture.global_and_fixture_disabled():
        columns = [f'{library} {way}' for library in LIBRARIES for way in ('in', 'out')]
        print(f'\n\nlargest difference of logits, {TOLERANCE} allowed')
        print(f'{"":8}' + ''.join(f'{column:>18}' for column in columns))
        for size in SIZES:
            cells = [differences.get((size, *column.split())) for column in columns]
            if any(cell is not None for cell in cells):
                print(f'{size:8}' + ''.join(f'{cell:>18.1e}' for cell in cells))


def ours_of(checkpoint) -> torch.nn.Module:
    """Our backbone with the weights of a checkpoint."""
    architecture = checkpoint.architecture
    with torch.device('meta'):
        backbone = ConvNeXtV2(
            dict(depths=architecture.depths, channels=architecture.channels),
            use_grn=architecture.use_grn,
            layer_scale_init_value=1e-6 if architecture.has_layer_scale else 0.0,
        )
    weights = {
        name.removeprefix('backbone.'): tensor
        for name, tensor in checkpoint.weights.items()
        if name.startswith('backbone.')
    }
    backbone.load_state_dict(weights, assign=True)
    return backbone.eval()


def our_logits(backbone, checkpoint, images):
    with torch.no_grad():
        head = checkpoint.weights['head.fc.weight'], checkpoint.weights['head.fc.bias']
        return F.linear(backbone(images)[0], *head)


def compare(library, arch, version, folder):
    """Take a model of a library in and out again, through files.

    Returns the largest difference of logits from the library to us, and from us to the library.
    """
    theirs = build(library, arch, version)
    source = folder / ('in.safetensors' if library == 'timm' else 'in')
    save(library, theirs, source)
    checkpoint = read_checkpoint(source)
    assert checkpoint.layout == ('mm' if library == 'mmpretrain' else library)
    assert checkpoint.architecture.version == version
    assert checkpoint.architecture.size == (arch if isinstance(arch, str) else None)

    destination = folder / ('out' if library == 'transformers' else 'out.pth')
    write_checkpoint(checkpoint, destination, library)
    reopened = reopen(library, destination, arch, version)
    before, after = theirs.state_dict(), reopened.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    ours = ours_of(checkpoint)
    into, out = 0.0, 0.0
    for height, width in ((224, 224), (96, 160)):
        images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(2))
        outputs = our_logits(ours, checkpoint, images)
        into = max(into, (logits(theirs, images) - outputs).abs().max().item())
        out = max(out, (logits(reopened, images) - outputs).abs().max().item())
    assert outputs.abs().max() > 0.1
    return into, out


@pytest.mark.long
@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize(
    'size',
    [*SIZES[:5], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[5:])],
)
def test_every_size_is_the_same_network(size, library, table):
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which is kept: Huge has 2.6 GB
        into, out = compare(library, size, 2, Path(folder))
    table[size, library, 'in'], table[size, library, 'out'] = into, out
    assert max(into, out) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize(('arch', 'version'), [('tiny', 1), (SMALL, 1), (SMALL, 2)])
def test_v1_and_custom_sizes_are_the_same_network(arch, version, library, tmp_path):
    assert max(compare(library, arch, version, tmp_path)) < TOLERANCE


@pytest.mark.parametrize('version', [1, 2])
def test_official_layout_is_what_timm_reads(version, tmp_path):
    theirs = build('timm', 'atto', version)
    save('timm', theirs, tmp_path / 'timm.safetensors')
    checkpoint = read_checkpoint(tmp_path / 'timm.safetensors')
    write_checkpoint(checkpoint, tmp_path / 'official.pth', 'official')
    official = torch.load(tmp_path / 'official.pth', weights_only=True)
    if version == 2:
        assert official['model']['stages.2.5.grn.gamma'].shape == (1, 1, 1, 640)
    original = theirs.state_dict()
    filtered = checkpoint_filter_fn(official, theirs)
    assert filtered.keys() == original.keys()
    assert all(torch.equal(filtered[name], original[name]) for name in original)

    again = read_checkpoint(tmp_path / 'official.pth')
    assert (again.layout, again.architecture) == ('official', checkpoint.architecture)
    assert all(torch.equal(again.weights[k], v) for k, v in checkpoint.weights.items())


def official_sparse_state(depths, channels, width, seed=0) -> dict[str, Tensor]:
    """What the official pre-training writes, from its description."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, mean=0.0):
        return mean + 0.1 * torch.randn(shape, generator=generator)

    state = {'mask_token': draw(1, width, 1, 1)}

    def add(name, weight, bias):
        state[f'{name}.{"kernel" if weight.ndim == 3 else "weight"}'] = weight
        state[f'{name}.bias'] = bias

    add('encoder.downsample_layers.0.0', draw(channels[0], 3, 4, 4), draw(channels[0]))
    add('encoder.downsample_layers.0.1', draw(channels[0], mean=1), draw(channels[0]))
    for i, (depth, c) in enumerate(zip(depths, channels, strict=True)):
        if i:
            before = channels[i - 1]
            add(f'encoder.downsample_layers.{i}.0.ln', draw(before, mean=1), draw(before))
            add(f'encoder.downsample_layers.{i}.1', draw(4, before, c), draw(1, c))
        for j in range(depth):
            block = f'encoder.stages.{i}.{j}'
            state[f'{block}.dwconv.kernel'] = draw(49, c)
            state[f'{block}.dwconv.bias'] = draw(1, c)
            add(f'{block}.norm.ln', draw(c, mean=1), draw(c))
            add(f'{block}.pwconv1.linear', draw(4 * c, c), draw(4 * c))
            add(f'{block}.pwconv2.linear', draw(c, 4 * c), draw(c))
            state[f'{block}.grn.gamma'] = draw(1, 4 * c)
            state[f'{block}.grn.beta'] = draw(1, 4 * c)
    add('proj', draw(width, channels[-1], 1, 1), draw(width))
    add('decoder.0.dwconv', draw(width, 1, 7, 7), draw(width))
    add('decoder.0.norm', draw(width, mean=1), draw(width))
    add('decoder.0.pwconv1', draw(4 * width, width), draw(4 * width))
    add('decoder.0.pwconv2', draw(width, 4 * width), draw(width))
    state['decoder.0.grn.gamma'] = draw(1, 1, 1, 4 * width)
    state['decoder.0.grn.beta'] = draw(1, 1, 1, 4 * width)
    add('pred', draw(32 * 32 * 3, width, 1, 1), draw(32 * 32 * 3))
    return state


def official_block(x, state, name, visible):
    """A block on ``(N, H, W, C)``, masked around the layers that look at other sites."""
    shortcut, (height, width) = x, x.shape[1:3]
    if f'{name}.dwconv.kernel' in state:
        padded = F.pad(x * visible, (0, 0, 3, 3, 3, 3))
        x = state[f'{name}.dwconv.bias'].expand_as(x)
        for tap, weight in enumerate(state[f'{name}.dwconv.kernel']):
            column, row = divmod(tap, 7)  # column-major
            x = x + weight * padded[:, row : row + height, column : column + width]
        norm, linear = f'{name}.norm.ln', '.linear'
    else:
        weight, bias = state[f'{name}.dwconv.weight'], state[f'{name}.dwconv.bias']
        x = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=len(weight))
        x, norm, linear = x.permute(0, 2, 3, 1), f'{name}.norm', ''

    def apply(layer, x):
        layer = f'{name}.{layer}{linear}'
        return F.linear(x, state[f'{layer}.weight'], state[f'{layer}.bias'])

    x = F.layer_norm(x, x.shape[-1:], state[f'{norm}.weight'], state[f'{norm}.bias'], 1e-6)
    x = F.gelu(apply('pwconv1', x)) * visible
    response = x.square().sum((1, 2), keepdim=True).sqrt()
    response = response / (response.mean(-1, keepdim=True) + 1e-6)
    x = state[f'{name}.grn.gamma'] * x * response + state[f'{name}.grn.beta'] + x
    return (shortcut + apply('pwconv2', x)) * visible


def official_forward(state, depths, images, mask):
    """Latents and predictions of the dense masked network, straight from the official weights."""

    def visible(x):
        seen = 1 - mask.view(len(x), images.shape[2] // 32, -1, 1)
        factor = x.shape[1] // seen.shape[1]
        return seen.repeat_interleave(factor, 1).repeat_interleave(factor, 2)

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f'{name}.weight'], state[f'{name}.bias'], 1e-6)

    for i, depth in enumerate(depths):
        layer = f'encoder.downsample_layers.{i}'
        if i == 0:
            weight, bias = state[f'{layer}.0.weight'], state[f'{layer}.0.bias']
            x = F.conv2d(images, weight, bias, stride=4).permute(0, 2, 3, 1)
            x = norm(x, f'{layer}.1')
        else:
            before = norm(x, f'{layer}.0.ln')
            x = state[f'{layer}.1.bias']
            for tap, weight in enumerate(state[f'{layer}.1.kernel']):
                column, row = divmod(tap, 2)
                x = x + before[:, row::2, column::2] @ weight
        x = x * visible(x)
        for j in range(depth):
            x = official_block(x, state, f'encoder.stages.{i}.{j}', visible(x))
    latent = x.permute(0, 3, 1, 2)

    seen = visible(x).permute(0, 3, 1, 2)
    x = F.conv2d(latent, state['proj.weight'], state['proj.bias'])
    x = x * seen + state['mask_token'] * (1 - seen)
    x = official_block(x.permute(0, 2, 3, 1), state, 'decoder.0', 1.0).permute(0, 3, 1, 2)
    prediction = F.conv2d(x, state['pred.weight'], state['pred.bias'])
    return latent, prediction.flatten(2).mT


@pytest.mark.parametrize('backend', ['auto', 'masked'])
def test_official_fcmae_is_the_same_autoencoder(backend, tmp_path):
    width = 24
    state = official_sparse_state(**SMALL, width=width)
    torch.save(dict(model=state, epoch=1), tmp_path / 'official.pth')
    checkpoint = read_checkpoint(tmp_path / 'official.pth')
    assert checkpoint.layout == 'official sparse FCMAE'
    model = FCMAE(
        dict(type='SparseConvNeXtV2', arch=SMALL, backend=backend),
        dict(type='FCMAEDecoder', in_channels=SMALL['channels'][-1], embed_dims=width),
        dict(type='FCMAEHead'),
    )
    model.load_state_dict(checkpoint.weights)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 96, 128, generator=generator)
    mask = torch.rand(2, 12, generator=generator).argsort(1).ge(5).float()
    latent, prediction = official_forward(state, SMALL['depths'], images, mask)
    with torch.no_grad():
        our_latent, _ = model.backbone(images, mask)
        our_prediction = model.neck(our_latent, mask)
    torch.testing.assert_close(our_latent, latent, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_prediction, prediction, atol=1e-5, rtol=1e-5)
    assert latent.abs().max() > 0.1 and prediction.abs().max() > 0.1

    write_checkpoint(checkpoint, tmp_path / 'again.pth', 'official')
    again = torch.load(tmp_path / 'again.pth', weights_only=True)['model']
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
