from isotherm.pinn.graph import FieldGraph
from isotherm.pinn.model import Model

__all__ = ["FieldGraph", "Model"]
