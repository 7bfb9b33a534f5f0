"""Pre-train on the drawn shapes while the run is harmed again and again, and see that it ends with
the weights of a run that nothing disturbs, bit for bit.

At random moments, the run is killed (also while it writes a checkpoint, and while it starts), is
told to end as a cluster does (also while it validates), loses a loader process, or meets a broken
image; then it is taken up again with --resume. When it is through, it begins anew, until the time
is up.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from convnextv2_mm.checkpoints.reading import read_file
from convnextv2_mm.datasets.shapes.drawing import write_shapes
from convnextv2_mm.engine.runner.resume import same
from convnextv2_mm.utils.atomic import PARTIAL

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'
# 8 batches an epoch, 3 a step of the optimizer, 5 a checkpoint: all are out of step.
EPOCHS = 40
VALIDATIONS = [80, 160, 240, 320]  # after so many batches
OPTIONS = [
    'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=2',
    'train_dataloader.dataset.pipeline.1.scale=64',
    f'train_cfg.max_epochs={EPOCHS}',
    f'train_cfg.val_interval={EPOCHS // len(VALIDATIONS)}',
    f'param_scheduler.1.end={EPOCHS}',
    'optim_wrapper.accumulative_counts=3',
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=5',
    'default_hooks.checkpoint.max_keep_ckpts=3',
]
HARMS = ('kill', 'kill while writing', 'terminate', 'terminate while validating')
HARMS += ('kill a loader', 'corrupt a file')
NO_HARM = 'none'
# The last ended before they came to training.
STARTS = ('resumed', 'from the start', 'not begun')
BEGUN = 'Checkpoints will be saved'  # in the log of a run that begins to train


class Life:
    """A training process, from its start to its end."""

    def __init__(self, data: Path, work_dir: Path) -> None:
        options = list(OPTIONS)
        for split in ('train', 'val', 'test'):
            dataset = f'{split}_dataloader.dataset'
            options += [f'{dataset}.make=None', f'{dataset}.data_root={data}']
        command = [
            sys.executable,
            ROOT / 'tools/train.py',
            CONFIG,
            '--work-dir',
            work_dir,
            '--resume',
        ]
        self.data = data
        self.work_dir = work_dir
        self.output: list[str] = []
        self.is_training, self.is_validating = threading.Event(), threading.Event()
        self.process = subprocess.Popen(
            [*command, '--cfg-options', *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.output.append(line)
            if BEGUN in line:
                self.is_training.set()
            if any(f'Saving checkpoint at {n} iterations' in line for n in VALIDATIONS):
                self.is_validating.set()
        self.is_training.set()
        self.is_validating.set()

    def live(self, harm: str, rng: random.Random) -> str:
        """Run to the end, with harm done at some moment.

        Returns:
            The harm that was done: the run may have been through before.
        """
        if harm == NO_HARM:
            done = True
        else:
            if rng.random() < 0.9:  # the others are harmed while they start
                self.is_training.wait()
            if harm == 'terminate while validating':
                self.is_validating.wait()
                time.sleep(rng.uniform(0, 0.5))
            else:
                time.sleep(rng.uniform(0, 6))
            if harm == 'kill while writing':
                while self.process.poll() is None and not any(self.work_dir.glob(f'.*{PARTIAL}')):
                    time.sleep(0)
                time.sleep(rng.uniform(0, 0.05))
            done = self.process.poll() is None
            if done:
                self._harm(harm, rng)
        self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what a killed process leaves
        self._reader.join()
        return harm if done else NO_HARM

    def _harm(self, harm: str, rng: random.Random) -> None:
        if harm.startswith('kill ') and 'loader' in harm:
            loaders = _children(self.process.pid)
            for pid in rng.sample(loaders, min(1, len(loaders))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif harm.startswith('terminate'):
            os.killpg(self.process.pid, signal.SIGTERM)  # loaders and all
        elif harm == 'corrupt a file':
            images = sorted((self.data / 'images' / 'train').rglob('*.jpg'))
            with _corrupted(rng.choice(images)), contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        else:
            self.process.kill()

    @property
    def start(self) -> int | None:
        """Iteration that it went on from, 0 if it began anew; None if it did not come so far."""
        output = ''.join(self.output)
        if BEGUN not in output:
            return None
        found = re.search(r'resumed epoch: \d+, iter: (\d+)', output)
        return int(found[1]) if found else 0


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _corrupted(path: Path) -> Iterator[None]:
    """Cut a file off in the middle, and put it right afterwards."""
    whole, broken = path.with_suffix('.whole'), path.with_suffix('.broken')
    shutil.copy(path, whole)
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    broken.replace(path)  # at no moment is there none: a run that starts lists the files
    try:
        yield
    finally:
        whole.replace(path)


def saved_iterations(work_dir: Path) -> int:
    """Iterations in the checkpoint that ``last_checkpoint`` names, 0 if there is none."""
    pointer = work_dir / 'last_checkpoint'
    if not pointer.is_file():
        return 0
    return read_file(work_dir / pointer.read_text())['meta']['iter']


def final_state(work_dir: Path) -> dict:
    content = read_file(work_dir / (work_dir / 'last_checkpoint').read_text())
    return {key: content[key] for key in ('state_dict', 'optimizer', 'param_schedulers')}


def run_harmed(data: Path, work_dir: Path, rng: random.Random, args, done: Counter) -> Counter:
    """Take a run to its end through harm; count what was done, and what was lost by it."""
    shutil.rmtree(work_dir, ignore_errors=True)
    while True:
        saved = saved_iterations(work_dir)
        is_time = args.kills and done['harmed'] >= args.kills
        is_time = is_time or not args.kills and time.time() > args.end
        harm = NO_HARM if is_time else rng.choice(args.harms)
        life = Life(data, work_dir)
        harm = life.live(harm, rng)
        code = life.process.returncode
        done[harm] += 1
        done['harmed'] += harm != NO_HARM
        start = life.start
        if start is None:
            done['not begun'] += 1
        else:
            done['resumed' if start else 'from the start'] += 1
            done['lost'] += start != saved
        print(
            f'{time.strftime("%H:%M:%S")}  from iteration {"-" if start is None else start:>3} '
            f'to {saved_iterations(work_dir):3}, {harm}, exit code {code}',
            flush=True,
        )
        if code == 0:
            return done
        if harm == NO_HARM or harm.startswith('terminate') and code not in (143, -signal.SIGTERM):
            print(''.join(life.output), file=sys.stderr)
            sys.exit(f'error: the run ended with exit code {code}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=20)
    parser.add_argument('--kills', type=int, default=0, help='stop after so much harm instead')
    parser.add_argument('--harms', nargs='+', choices=HARMS, default=HARMS)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/kill_test'))
    parser.add_argument('--seed', type=int, default=0, help='of the harm')
    args = parser.parse_args()
    data = args.work_dir / 'shapes'
    shutil.rmtree(data, ignore_errors=True)  # with what a test that was stopped has broken
    write_shapes(data, num_train=64, num_val=8, size=64, seed=0)
    started = time.time()
    args.end = started + 60 * args.minutes

    calm = args.work_dir / 'calm'
    shutil.rmtree(calm, ignore_errors=True)
    life = Life(data, calm)
    life.live(NO_HARM, random.Random(0))
    if life.process.returncode:
        sys.exit(''.join(life.output) + 'error: the run ends without any harm')
    expected = final_state(calm)
    print(f'undisturbed: {saved_iterations(calm)} iterations in {time.time() - started:.0f} s')

    rng, done, rounds, equal = random.Random(args.seed), Counter(), 0, 0
    while not rounds or (done['harmed'] < args.kills if args.kills else time.time() < args.end):
        run_harmed(data, args.work_dir / 'harmed', rng, args, done)
        rounds += 1
        is_equal = same(final_state(args.work_dir / 'harmed'), expected)
        equal += is_equal
        print(f'run {rounds} is through: {"the same" if is_equal else "OTHER"} weights', flush=True)
    harms, starts = (
        ', '.join(f'{done[kind]} x {kind}' for kind in kinds) for kinds in (args.harms, STARTS)
    )
    print(
        f'{(time.time() - started) / 60:.1f} minutes, {rounds} runs, {done["harmed"]} times harmed '
        f'({harms}); {starts}; {done["lost"]} times lost what was saved; '
        f'{equal} of {rounds} runs with the weights of the undisturbed one'
    )
    if equal < rounds or done['lost']:
        sys.exit(1)


if __name__ == '__main__':
    main()
