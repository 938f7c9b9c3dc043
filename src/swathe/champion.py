"""The code of a registered model: MLflow copies this file beside the weights and runs it where the model is loaded.

champion = mlflow.pyfunc.load_model("models:/NAME@champion")
champion.predict(inputs)                           # [batch, features], prepared as in training -> [batch, outputs]
champion.unwrap_python_model().state               # the state dictionary, for a network of your own
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

if TYPE_CHECKING:
    import torch


class Champion(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined, unused-ignore]
    """The best trial's network: `state` are its weights, `config` is the trial's whole config."""

    # MLflow would warn, wherever the model is loaded, that `predict` names no types of its own kind.
    _skip_type_hint_validation = True

    state: dict[str, Any]
    config: dict[str, Any]
    sizes: dict[str, Any] | None

    def load_context(self, context: Any) -> None:
        """Read weights and config; needs PyTorch alone."""
        # Not above: MLflow runs this file when the model is logged, too, and PyTorch takes seconds to import.
        import torch

        self.state = torch.load(context.artifacts["weights"], map_location="cpu", weights_only=True)
        self.config = json.loads(Path(context.artifacts["config"]).read_text())
        # Of a network of the user's own, whose state need not say them.
        self.sizes = self.config.pop("model_sizes", None)

    # Without types: MLflow would take them for the model's signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the outputs `[batch, outputs]` (logits, or targets of a regression) for inputs `[batch, features]`.

        Needs Swathe, which builds the network from the config. Raises `ValueError` for a trial of the user's own
        function, whose network only the user has: load `state` into it.
        """
        import numpy as np
        import torch

        if self.config.get("trainable"):
            raise ValueError(f"{self.config['trainable']} made this model: load its `state` into the network there.")
        from swathe.training.recipe import Text, recipe_from_config

        # A text's inputs are the numbers of its tokens.
        tokens = isinstance(recipe_from_config(self.config).data, Text)
        inputs = torch.as_tensor(np.asarray(model_input, dtype=np.int64 if tokens else np.float32))
        with torch.inference_mode():
            return np.asarray(self.network(inputs.shape[1])(inputs))

    def network(self, features: int) -> torch.nn.Module:
        """Build the network for inputs `[batch, features]` with the trained weights, ready for inference.

        One of the user's own is made of the user's code, which the model has with it. Of a GAN it is the generator,
        whose inputs are normal numbers `[batch, latent]`.
        """
        import torch

        from swathe.training.models import build
        from swathe.training.recipe import (
            GAN,
            IMAGE_MODELS,
            IMAGE_SHAPES,
            SEQUENCE_MODELS,
            SequenceShape,
            recipe_from_config,
        )

        recipe = recipe_from_config(self.config)
        model, image_shape, sequence = recipe.model, None, None
        if self.sizes is not None:
            sizes = dict(self.sizes)
            steps = None if sizes["sequence"] is None else SequenceShape(**sizes["sequence"])
            image_shape = None if sizes["image_shape"] is None else tuple(sizes["image_shape"])
            own = build(model, sizes["inputs"], sizes["outputs"], image_shape, 0.0, torch.Generator(), steps)
            own.load_state_dict(self.state)
            return own.eval()
        if isinstance(model, GAN):
            from swathe.training.gan import networks

            both = networks(model, self.state["generator.output.weight"].shape[0], 0.0, torch.Generator())
            both.load_state_dict(self.state)
            return both["generator"].eval()
        if isinstance(model, IMAGE_MODELS):
            channels = next(weight.shape[1] for weight in self.state.values() if weight.dim() == 4)
            side = math.isqrt(features // channels)
            image_shape = channels, side, side
        if isinstance(model, SEQUENCE_MODELS):
            from swathe.training.sequences import shape_from_state

            image_shape = IMAGE_SHAPES.get(recipe.data.name)
            sequence = shape_from_state(recipe.data, features, self.state)
        outputs = self.state["output.weight"].shape[0]
        network = build(model, features, outputs, image_shape, 0.0, torch.Generator(), sequence)
        network.load_state_dict(self.state)
        return network.eval()


mlflow.models.set_model(Champion())  # type: ignore[attr-defined, unused-ignore]
