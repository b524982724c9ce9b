"""Start weights that others wrote: state dicts, timm's folders, transformers' folders. Nothing is ever unpickled."""
