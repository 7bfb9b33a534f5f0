"""What the tools tell a user who cannot be served."""

import pytest

from convnextv2_mm.engine.run_setup import one_sentence_errors


def test_first_sentence_is_told(capsys):
    with pytest.raises(SystemExit) as stop, one_sentence_errors():
        raise ValueError('size 3 is not allowed: choose 4. More that nobody reads.')
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: size 3 is not allowed: choose 4.\n'


def test_bare_assertion_tells_its_source(capsys):
    with pytest.raises(SystemExit), one_sentence_errors():
        raise AssertionError
    error = capsys.readouterr().err
    assert error.startswith('error: AssertionError in ')
    assert error.endswith('raise AssertionError\n')
