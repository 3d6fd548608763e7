from .folder import export as export, parse_forms as parse_forms
