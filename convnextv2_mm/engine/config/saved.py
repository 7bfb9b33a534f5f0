"""The config that MMEngine writes into a checkpoint, read without running it."""

from __future__ import annotations

import ast
from typing import Any

from mmengine.config import Config

from ...checkpoints.reading import inspect_file


def read_saved_config(checkpoint: str) -> Config:
    """The config of the run that wrote a checkpoint.

    MMEngine runs the text. Here only what it writes itself is understood: names, ``dict(...)``,
    lists, tuples, numbers and text.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If no config is in it, or one with anything else.
    """
    node = inspect_file(checkpoint)
    for key in ('meta', 'cfg'):
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, str):
        raise ValueError(f'checkpoint {checkpoint} holds no config of its run: give one')
    values = {}
    try:
        for statement in ast.parse(node).body:
            if not isinstance(statement, ast.Assign) or not isinstance(
                statement.targets[0], ast.Name
            ):
                raise ValueError(f'line {statement.lineno}')
            values[statement.targets[0].id] = _value(statement.value)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f'the config in checkpoint {checkpoint} is not as MMEngine writes it: {error}'
        ) from error
    return Config(values)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f'line {node.lineno}')
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.List | ast.Tuple):
        entries = [_value(entry) for entry in node.elts]
        return entries if isinstance(node, ast.List) else tuple(entries)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if key is not None}
    return ast.literal_eval(node)
