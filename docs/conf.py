"""Configuration of Sphinx: ``make docs``."""

from convnextv2_mm import __version__

project = 'convnextv2_mm'
copyright = 'the authors of convnextv2_mm'
release = version = __version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
myst_heading_anchors = 3  # links to headings, as on GitHub
html_theme = 'furo'
html_title = f'convnextv2_mm {version}'
html_copy_source = False

autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True}
autodoc_typehints_format = 'short'

# `make docs-linkcheck` only
linkcheck_timeout = 20
linkcheck_retries = 2
highlight_language = 'text'  # of blocks that name none
