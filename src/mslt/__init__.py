"""Pre-train BERT-family encoders in less than half the time, by multi-stage layerwise training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module. Imported when first used: the command line must not wait for torch.
_WHERE = {
    "Config": "mslt.config",
    "Encoder": "mslt.model",
    "Instances": "mslt.data.instances",
    "ModelConfig": "mslt.config",
    "Plan": "mslt.plan",
    "RECIPES": "mslt.recipes",
    "Schedule": "mslt.schedule",
    "Stage": "mslt.plan",
    "TokenStore": "mslt.data.store",
    "build_plan": "mslt.plan",
    "freeze": "mslt.growth",
    "grow": "mslt.growth",
}
__all__ = [
    "RECIPES",
    "Config",
    "Encoder",
    "Instances",
    "ModelConfig",
    "Plan",
    "Schedule",
    "Stage",
    "TokenStore",
    "build_plan",
    "freeze",
    "grow",
]

if TYPE_CHECKING:
    from mslt.config import Config, ModelConfig
    from mslt.data.instances import Instances
    from mslt.data.store import TokenStore
    from mslt.growth import freeze, grow
    from mslt.model import Encoder
    from mslt.plan import Plan, Stage, build_plan
    from mslt.recipes import RECIPES
    from mslt.schedule import Schedule


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mslt' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
