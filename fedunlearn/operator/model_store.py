"""The model store: files of trained models, of their initial weights, and of recordings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from fedunlearn.errors import InputError, NotRecordedError, VerificationError
from fedunlearn.federation.accounting import Meter
from fedunlearn.federation.trained_model import Recordable, Recorded, TrainedModel, WeightsObserver
from fedunlearn.files import flush_folder, replacing, write_whole
from fedunlearn.model_state import ModelState
from fedunlearn.networks import NetworkDigest, fixed_tensors
from fedunlearn.parameters import ParameterLayout, digest
from fedunlearn.recording.head_recording import HeadRecorder
from fedunlearn.recording.head_storage import HEAD, open_head, save_head
from fedunlearn.recording.recorder import SubspaceRecorder
from fedunlearn.recording.recording import Recording
from fedunlearn.recording.storage import BASIS, SUMS, open_recording, save_recording
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.certified_head import CertifiedRecorder
from fedunlearn.unlearning.method import UnlearningMethod
from fedunlearn.worker.model_folder import ModelFolder

INITIAL = "initial.safetensors"
NO_INITIAL = "initial.unknown"
SETTINGS = "settings.json"
RECORDING = "recording"
NETWORK = "network"
STATE = "state"


def model_file(
    model: nn.Module, weights: Tensor, state: Mapping[str, Tensor] | None = None
) -> bytes:
    """Return a whole model as a safetensors file: trained weights, frozen parameters and buffers.

    The sha256 of the file, which receipts contain, therefore covers all tensors. By the file's
    metadata, it also covers the layers, and which tensors differ from those that a node builds.

    Args:
        model: The model as every node builds it.
        weights: Trainable parameters (d,).
        state: Trained values of other tensors, by their names in ``state_dict``.

    Raises:
        InputError: The state has a tensor that the model does not have.
    """
    fixed = fixed_tensors(model)
    for name, tensor in (state or {}).items():
        if name not in fixed or fixed[name].shape != tensor.shape:
            raise InputError(
                f"state: the model has no tensor {name!r} of this shape besides its "
                "weights; give the state of this model"
            )
        fixed[name] = tensor.to(fixed[name].dtype)
    named = {**ParameterLayout.of(model).unflatten(weights), **fixed}
    network = NetworkDigest.of(model).digest.hex()
    metadata = {NETWORK: network}
    if state:  # in one entry, as safetensors writes several entries in a varying order
        metadata = {STATE: json.dumps({NETWORK: network, STATE: sorted(state)})}
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()},
        metadata=metadata,
    )


def read_state(content: bytes) -> ModelState:
    """Read the trained values of tensors other than the weights from a model file.

    Args:
        content: Content of the file.

    Returns:
        The values by their names in ``state_dict``; empty if nodes build all of them.

    Raises:
        VerificationError: The file cannot be read.
    """
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
        names = json.loads(metadata[STATE])[STATE] if STATE in metadata else ()
        return ModelState({name: tensors[name] for name in names})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise VerificationError(
            "the model file cannot be read; restore it from a backup"
        ) from error


def read_model(model: nn.Module, content: bytes) -> Tensor:
    """Read the trainable parameters from a model file.

    Args:
        model: The model as every node builds it.
        content: Content of the file. A file of an earlier version has only the trainable
            parameters.

    Returns:
        Trainable parameters (d,).

    Raises:
        VerificationError: The file belongs to another model, or has other frozen parameters or
            buffers, the first of which is named.
    """
    layout = ParameterLayout.of(model)
    sent = read_state(content)
    try:
        tensors = safetensors.torch.load(content)
        for name, fixed in fixed_tensors(model).items():
            if name in tensors and name not in sent and not torch.equal(tensors[name], fixed.cpu()):
                raise VerificationError(
                    f"the model file has another {name!r} than this scenario's model, which does "
                    "not train it; use the scenario that the state folder was made with"
                )
        found = [tensors[name].reshape(-1) for name in layout.names]
    except (SafetensorError, KeyError) as error:
        raise VerificationError(
            "the model file does not contain this scenario's model; use the scenario that the "
            "state folder was made with"
        ) from error
    weights = torch.cat([tensor.to(layout.dtype) for tensor in found])
    if len(weights) != layout.dimension:
        raise VerificationError(
            f"the model file has {len(weights)} parameters, this scenario's model has "
            f"{layout.dimension}; use the scenario that the state folder was made with"
        )
    return weights


def require_keepable(method: UnlearningMethod[Any]) -> None:
    """Refuse a method that needs recordings of the training that are not stored in files.

    Raises:
        NotRecordedError: The method needs such recordings; the message names other methods.
    """
    for item in method.to_record():
        if isinstance(item, WeightsObserver):
            continue  # which it can do without
        if not isinstance(item, SubspaceRecorder | HeadRecorder | CertifiedRecorder):
            raise NotRecordedError(
                f"{method.name} needs {item}, which a state folder does not store; put a method "
                "first that needs nothing recorded (cubic-newton), or instant-cubic-newton"
            )


def to_store(method: UnlearningMethod[Any]) -> tuple[Recordable, ...]:
    """Return what a method records that a state folder stores."""
    return tuple(item for item in method.to_record() if not isinstance(item, WeightsObserver))


class ModelStore:
    """Trained models in a state folder, with the recordings that their next removals need."""

    def __init__(
        self,
        models: ModelFolder,
        training: Path,
        model: nn.Module,
        method: UnlearningMethod[Any],
    ) -> None:
        """Store the folders, the model and the method's recorders.

        Args:
            models: The model files.
            training: Folder for the initial weights and the settings of the training.
            model: The model as every node builds it.
            method: Method that removes, which determines what must be recorded.

        Raises:
            NotRecordedError: The method needs recordings that are not stored in files.
        """
        require_keepable(method)
        self._models = models
        self._training = training
        self._model = model
        self._recordables = to_store(method)

    def content(self, weights: Tensor, state: Mapping[str, Tensor] | None = None) -> bytes:
        """Return a model file with weights (d,) and trained values of other tensors."""
        return model_file(self._model, weights, state)

    def store_first(self, trained: TrainedModel) -> str:
        """Store a newly trained model, its initial weights, its settings, and its recordings.

        Returns:
            sha256 of the model file.
        """
        self._training.mkdir(parents=True, exist_ok=True, mode=0o700)
        if trained.initial is None:
            write_whole(self._training / NO_INITIAL, "")
        else:
            with replacing(self._training / INITIAL) as file:
                file.write(model_file(self._model, trained.initial))
        write_whole(self._training / SETTINGS, trained.settings.model_dump_json() + "\n")
        sha256 = self._models.put(model_file(self._model, trained.weights, trained.state))
        self.store_recorded(trained, self._models.beside(sha256))
        return sha256

    def store_recorded(self, trained: TrainedModel, folder: Path, base: str | None = None) -> None:
        """Store the recordings for the next removal, if there are any.

        Args:
            trained: The model.
            folder: The model's folder.
            base: sha256 of the model it was made from; the two share the file of an equal basis.
        """
        for item in self._recordables:
            if item not in trained.recorded or trained.recorded[item].value is None:
                continue
            value = trained.recorded[item].value
            target = folder / RECORDING
            target.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not isinstance(value, Recording):
                save_head(value, target)
                flush_folder(folder)
                flush_folder(folder.parent)
                continue
            shared = self._models.beside(base) / RECORDING / BASIS if base else None
            if shared is not None and shared.exists() and not (target / BASIS).exists():
                os.link(shared, target / BASIS)
            save_recording(value, target)
            flush_folder(folder)
            flush_folder(folder.parent)

    def load(self, sha256: str) -> TrainedModel:
        """Load a model with its recordings for the next removal.

        A recording of other weights, as after continued training, is left out.

        Returns:
            The model.

        Raises:
            VerificationError: A file is missing or was changed.
            RecordingError: A file of a recording is missing or was changed.
        """
        content = self._models.read(sha256)
        weights, state = read_model(self._model, content), read_state(content)
        initial = None
        if not (self._training / NO_INITIAL).exists():
            initial = read_model(self._model, self._of_training(INITIAL))
        try:
            settings = TrainingSettings.model_validate_json(self._of_training(SETTINGS))
        except ValidationError:
            raise VerificationError(
                f"{self._training / SETTINGS} has no settings of the training; restore the file"
            ) from None
        folder = self._models.beside(sha256) / RECORDING
        recorded: dict[Recordable, Recorded] = {}
        for item in self._recordables:
            if (folder / (SUMS if isinstance(item, SubspaceRecorder) else HEAD)).exists():
                recording = (
                    open_recording(folder)
                    if isinstance(item, SubspaceRecorder)
                    else open_head(folder)
                )
                if recording.model == digest(weights):
                    recorded[item] = Recorded(recording, Meter().stopped())
        return TrainedModel(weights, initial, settings, recorded, state)

    def _of_training(self, name: str) -> bytes:
        path = self._training / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise VerificationError(
                f"{path} cannot be read: {error.strerror}; restore it from a backup"
            ) from None
