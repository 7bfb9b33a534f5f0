"""``make matrix``: the tests on the Pythons and PyTorchs that the package allows.

Each takes some 15 minutes and 6 GB. ``nox --list`` shows them, ``nox -s 'tests-3.13'`` runs one. A
Python that is not at hand is skipped.
"""

import nox

nox.options.error_on_missing_interpreters = False


def install(session: nox.Session, *torch: str) -> None:
    """What ``make install`` installs, with another PyTorch if one is given."""
    session.install('-r', 'requirements/tests.txt')
    if torch:
        session.install('--upgrade', *torch)
    session.install('--force-reinstall', '--no-deps', '-r', 'requirements/headless.txt')
    session.install('--no-deps', '--editable', '.')


@nox.session(python=['3.10', '3.11', '3.12', '3.13'])
def tests(session: nox.Session) -> None:
    """The tested versions on each Python."""
    install(session)
    session.run('pytest', *session.posargs)


@nox.session(python='3.11')
@nox.parametrize(
    'torch',
    [
        nox.param(['torch==2.6.0', 'torchvision==0.21.0'], id='oldest'),
        nox.param(['torch', 'torchvision'], id='newest'),
    ],
)
def torch(session: nox.Session, torch: list[str]) -> None:
    """The oldest and the newest PyTorch."""
    install(session, *torch)
    session.run('pytest', *session.posargs)
