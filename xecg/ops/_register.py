"""Registration with PyTorch: one library, one way to define an op (torch.library; a low-level Library costs a third of custom_op)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from xecg.errors import XECGError

__all__ = ["define", "define_in_place", "differentiate", "maybe"]

_LIB = torch.library.Library("xecg", "DEF")


def define(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register `xecg::<schema>` for every device, with the kernel that tells shapes and types without data."""
    name = schema.split("(")[0]
    _LIB.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIB.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"xecg::{name}", fake, lib=_LIB)


def define_in_place(schema: str, implementation: Callable[..., None]) -> None:
    """Register an op that writes its `Tensor(a!)` arguments and returns nothing; it has no gradient."""
    arguments = schema[schema.index("(") + 1 : schema.rindex(") ->")].split(",")
    written = [place for place, argument in enumerate(arguments) if "!" in argument]

    def implementation_that_tells(*args: Any) -> None:
        implementation(*args)
        for place in written:  # torch counts the writes of its own ops only
            torch.autograd.graph.increment_version(args[place])

    define(schema, implementation_that_tells, lambda *args, **kwargs: None)


def differentiate(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Give `xecg::<name>` its gradient. The gradient's own op must be `xecg::<name>_backward`; it refuses a second derivative."""
    torch.library.register_autograd(f"xecg::{name}", backward, setup_context=save, lib=_LIB)

    def refuse(ctx: Any, *grads: Any) -> None:
        raise XECGError(
            f"{name}: second derivatives are not built; needed first derivatives only. Drop create_graph=True."
        )

    torch.library.register_autograd(f"xecg::{name}_backward", refuse, lib=_LIB)


def maybe(gradient: torch.Tensor, source: torch.Tensor | None) -> torch.Tensor | None:
    """A gradient in its source's type, or None for an argument that was absent (ops return an empty tensor for it)."""
    return None if source is None else gradient.to(source.dtype)
