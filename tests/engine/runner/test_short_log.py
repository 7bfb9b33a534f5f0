"""The screen stays readable: long messages are in the log file only."""

import logging

from mmengine.logging import MMLogger

from convnextv2_mm.engine.runner.short_log import long_messages_to_file


def test_long_messages_are_in_the_file_only(tmp_path, capsys):
    with long_messages_to_file():
        logger = MMLogger('short', logger_name='short', log_file=str(tmp_path / 'run.log'))
    long = '\n'.join(f'line {i} of many' for i in range(30))
    for message in (long, 'a step', long):
        logger.info(message)
    logger.warning(f'a warning\n{long}')
    written, printed = (tmp_path / 'run.log').read_text(), capsys.readouterr().out
    assert written.count('line 29 of many') == 3 and 'a step' in written
    assert printed.count('line 29 of many') == 1 and 'a warning' in printed
    assert printed.count('a step') == 1
    assert printed.count(f'environment, config and hooks are in {tmp_path / "run.log"}') == 1


def test_other_loggers_are_left_alone(tmp_path, capsys):
    with long_messages_to_file():
        pass
    logger = MMLogger('whole', logger_name='whole', log_level=logging.INFO)
    logger.info('\n' * 30 + 'the end')
    assert 'the end' in capsys.readouterr().out
