"""Classes of diffusers by name, imported where a model is at hand."""

from importlib import import_module
from typing import Any


def diffusers_class(module: str, name: str) -> Any:
    """The class of this name in a module of diffusers.models.transformers."""
    return getattr(import_module(f"diffusers.models.transformers.{module}"), name)
