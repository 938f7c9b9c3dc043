"""One update of all parameters: torch's optimisers behind one step with penalties, decay and clipping."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swathe.training.health import first_and_last_weights, layers_between, sampled
from swathe.training.precision import LossScale
from swathe.training.recipe import Adagrad, Adam, Momentum, Optim, Regularization, RMSprop

ADAMW_WEIGHT_DECAY = 0.01


class Update:
    """Updates a network's parameters, which it gathers into one vector `[parameters]` that they become views of.

    One vector means one kernel for each operation of a step, however many layers there are. As in torch, penalties
    and decay apply to all parameters, biases and norm weights included.

    A step is, in this order: the gradient of the l1 penalty (`l1 * sign(p)`) is added; the global norm is taken and,
    with `clip_norm`, the gradient scaled down to it as `torch.nn.utils.clip_grad_norm_` does, or, with `clip_value`,
    each element of it bounded as `torch.nn.utils.clip_grad_value_` does; decoupled decay
    `p *= 1 - lr * weight_decay` (Loshchilov & Hutter 2019, algorithm 2, as torch's AdamW has it); torch's optimiser,
    which adds l2 as its `weight_decay`. With a `loss_scale` the loss is multiplied by it and the gradient divided, and
    a step whose gradient is not finite changes nothing but the scale.

    With `stages`, which of them each parameter is in, from 0 and never falling, each is a parameter group of torch's
    optimiser; `train` says from which on they are trained, and at which rates.
    """

    def __init__(
        self,
        network: nn.Module,
        optim: Optim,
        regularization: Regularization,
        loss_scale: LossScale | None = None,
        stages: Sequence[int] = (),
        *,
        layers: bool = False,
    ) -> None:
        # A network of the user's own may have some that it keeps.
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._flat = _flatten(self._parameters)
        self._stages = list(stages) or [0] * len(self._parameters)
        shapes = [parameter.shape for parameter in self._parameters]
        self._between = layers_between(shapes) if layers else []
        self._groups = _cut(self._flat, self._parameters, self._stages)
        self._optimizer = _torch_optimizer(self._groups, optim, regularization.l2)
        self.train(0, [1.0] * len(self._groups))
        self._sampled = torch.tensor(sampled(self._flat.numel()), device=self._flat.device)
        self._l1 = regularization.l1
        self._weight_decay = decoupled_decay(optim, regularization)
        self._clip_norm = regularization.clip_norm
        self._clip_value = regularization.clip_value
        self._loss_scale = loss_scale

    def train(self, frozen: int, factors: Sequence[float]) -> None:
        """From now on train all stages but the first `frozen`, each at the rate times its one of `factors`."""
        self._factors = list(factors)
        self._frozen = frozen
        self._trained = [one for one, stage in zip(self._parameters, self._stages, strict=True) if stage >= frozen]
        self._begin = sum(group.numel() for group in self._groups[:frozen])
        self._watched = [*first_and_last_weights(parameter.shape for parameter in self._trained), *self._between]

    @property
    def parameters(self) -> Tensor:
        """The parameters that are trained, `[parameters]`, which each step changes in place."""
        return self._flat.detach()[self._begin :]

    def sample(self) -> Tensor:
        """Return a copy of what `health.sampled` takes of the parameters; with stages, of all that are trained."""
        if len(self._groups) > 1:
            return self.parameters.clone()
        return self._flat.detach().index_select(0, self._sampled)

    def state(self) -> dict[str, Any]:
        """Return a copy of what goes on from step to step besides the parameters, on the CPU."""
        optimizer = copy.deepcopy(self._optimizer.state_dict())
        for moments in optimizer["state"].values():
            moments.update({name: value.cpu() for name, value in moments.items() if isinstance(value, Tensor)})
        return {"optimizer": optimizer, "loss_scale": copy.copy(self._loss_scale)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, and keep it."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss_scale = state["loss_scale"]

    def step(self, loss: Tensor, lr: float) -> Tensor:
        """Descend from `loss` at rate `lr`; returns the gradient's global norm before clipping, on the device."""
        return self._descend(loss, lr, by_depth=False)

    def step_by_depth(self, loss: Tensor, lr: float) -> Tensor:
        """Do what `step` does; returns norms `[3 + between]`: of all, of the first and the last weights, and between.

        There are none of those between unless the network's `layers` were asked for, which one with stages cannot be.
        """
        return self._descend(loss, lr, by_depth=True)

    def _descend(self, loss: Tensor, lr: float, *, by_depth: bool) -> Tensor:
        gradient = self._gradient(loss)
        with torch.no_grad():
            if self._l1:
                gradient.add_(self.parameters.sign(), alpha=self._l1)
            norm: Tensor = torch.linalg.vector_norm(gradient)
            norms = torch.stack([norm, *self._watched_norms(gradient)]) if by_depth else norm
            if self._loss_scale is not None:
                finite = bool(norm.isfinite())
                self._loss_scale.note(finite=finite)
                if not finite:
                    return norms
            if self._clip_norm is not None:
                gradient.mul_((self._clip_norm / (norm + 1e-6)).clamp_(max=1.0))
            if self._clip_value is not None:
                gradient.clamp_(-self._clip_value, self._clip_value)
            if self._weight_decay:
                for group, factor in self._trained_groups():
                    group.mul_(1 - lr * factor * self._weight_decay)
        self._set(gradient, lr)
        self._optimizer.step()
        return norms

    def _trained_groups(self) -> list[tuple[nn.Parameter, float]]:
        return list(zip(self._groups, self._factors, strict=True))[self._frozen :]

    def _set(self, gradient: Tensor, lr: float) -> None:
        """Give each stage its part of the gradient and its rate; torch passes over those that have no gradient."""
        trained = self._groups[self._frozen :]
        for group, part in zip(trained, torch.split(gradient, [group.numel() for group in trained]), strict=True):
            group.grad = part
        for options, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            options["lr"] = lr * factor

    def _gradient(self, loss: Tensor) -> Tensor:
        """Return the loss's gradient by the parameters that are trained, `[parameters]`."""
        if self._loss_scale is None:
            parts = torch.autograd.grad(loss, self._trained, materialize_grads=True)
            return torch.cat([part.reshape(-1) for part in parts])
        parts = torch.autograd.grad(loss * self._loss_scale.value, self._trained, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts]).div_(self._loss_scale.value)

    def _watched_norms(self, gradient: Tensor) -> list[Tensor]:
        parts = torch.split(gradient, [parameter.numel() for parameter in self._trained])
        return [torch.linalg.vector_norm(parts[index]) for index in self._watched]


def decoupled_decay(optim: Optim, regularization: Regularization) -> float:
    """Return the decoupled weight decay: when none is given, 0.01 for adamw and 0 for the others, as in torch."""
    if regularization.weight_decay is not None:
        return regularization.weight_decay
    return ADAMW_WEIGHT_DECAY if optim.name == "adamw" else 0.0


def _flatten(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    for parameter, part in zip(parameters, torch.split(flat, [one.numel() for one in parameters]), strict=True):
        parameter.data = part.view_as(parameter)
    return nn.Parameter(flat)


def _cut(flat: nn.Parameter, parameters: Sequence[nn.Parameter], stages: Sequence[int]) -> list[nn.Parameter]:
    """Return the part of all parameters that each stage is, as a view; the whole itself where it is the only one."""
    sizes = [0] * (1 + max(stages))
    for parameter, stage in zip(parameters, stages, strict=True):
        sizes[stage] += parameter.numel()
    return [flat] if len(sizes) == 1 else [nn.Parameter(part) for part in torch.split(flat.detach(), sizes)]


def _torch_optimizer(groups: Sequence[nn.Parameter], optim: Optim, l2: float) -> torch.optim.Optimizer:
    parameters = [{"params": [group]} for group in groups]
    # Fused kernels take half the time of the others on a CPU; there is none for RMSprop.
    match optim:
        case Adam(lr=lr, beta1=beta1, beta2=beta2, eps=eps):
            return torch.optim.Adam(parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=l2, fused=True)
        case RMSprop(lr=lr, alpha=alpha, eps=eps):
            return torch.optim.RMSprop(parameters, lr=lr, alpha=alpha, eps=eps, weight_decay=l2)
        case Adagrad(lr=lr, eps=eps):
            return torch.optim.Adagrad(parameters, lr=lr, eps=eps, weight_decay=l2, fused=True)
        case Momentum(name=name, lr=lr, momentum=momentum):
            nesterov = name == "nesterov"
            return torch.optim.SGD(parameters, lr, momentum, weight_decay=l2, nesterov=nesterov, fused=True)
        case _:
            return torch.optim.SGD(parameters, lr=optim.lr, weight_decay=l2, fused=True)
