"""Methods that train: each against what its paper says of it, on a small network."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fedunlearn.errors import NotRecordedError, TaskError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.training import OnLocal, OnRound, Trainer, TrainingPlan
from fedunlearn.flower.simulation import simulate
from fedunlearn.parameters import ParameterLayout, initial_weights, load
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.recording.history import PastRound, RoundHistory
from fedunlearn.risk.local_rules import Distillation
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.fed_eraser import FedEraser, FedEraserSettings
from fedunlearn.unlearning.fed_osd import FedOsd, FedOsdSettings, across, orthogonal
from fedunlearn.unlearning.fine_tune import FineTune, FineTuneSettings
from fedunlearn.unlearning.gradient_ascent import GradientAscent, GradientAscentSettings
from fedunlearn.unlearning.method import Claim, Unlearned
from fedunlearn.unlearning.rapid_retraining import RapidRetraining
from fedunlearn.unlearning.registry import make_method
from fedunlearn.unlearning.retrain import Retrain
from fedunlearn.unlearning.scrub import Scrub, ScrubSettings
from fedunlearn.unlearning.weight_negation import WeightNegation, WeightNegationSettings
from tests.federations import TinyTask
from tests.removals import pooled

NODES = 4
LEAVER = 2
SETTINGS = TrainingSettings(rounds=12, local_epochs=2, batch_size=8, learning_rate=0.2)
NODE = ForgetSet.of_nodes(LEAVER)
FORGET = {"node": NODE, "samples": ForgetSet.of_samples(0.3, 5), "class": ForgetSet.of_class(1)}
TRAIN = (
    *("retrain", "fine-tune", "rewind", "gradient-ascent", "fed-eraser", "rapid-retraining"),
    *("fed-osd", "not", "scrub"),
)
NEEDS_THE_LEAVER = {"gradient-ascent", "fed-osd", "scrub"}


class Overheard:
    """A trainer whose plans are kept."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.plans: list[TrainingPlan] = []

    def train(
        self, start: Tensor, plan: TrainingPlan, on_round: OnRound, on_local: OnLocal | None = None
    ) -> Tensor:
        self.plans.append(plan)
        return self.trainer.train(start, plan, on_round, on_local)


def start() -> Tensor:
    return initial_weights(TinyTask().model, seed=3)


@cache
def trained() -> TrainedModel:
    wanted = [RoundHistory(1), RoundHistory(2)]
    return simulate(TinyTask(), NODES, lambda f: f.fit(start(), SETTINGS, record=wanted))


def unlearn(
    method: Any, forget: ForgetSet = NODE, model: TrainedModel | None = None
) -> tuple[Unlearned, list[TrainingPlan], list[tuple[int, Tensor]], int]:
    path: list[tuple[int, Tensor]] = []

    def body(federation: Federation) -> tuple[Unlearned, list[TrainingPlan], int]:
        federation.trainer = overheard = Overheard(federation.trainer)
        with federation.measure() as meter:
            found = method.unlearn(
                model or trained(), federation, forget, on_round=lambda n, w: path.append((n, w))
            )
        return found, overheard.plans, meter.rounds

    found, plans, rounds = simulate(TinyTask(), NODES, body)
    return found, plans, path, rounds


def outputs(weights: Tensor, forget: ForgetSet, part: Part) -> tuple[Tensor, Tensor]:
    model = TinyTask().model()
    load(model, weights)
    inputs, targets = pooled(TinyTask(), range(NODES), forget, part)
    return model(inputs).detach(), targets


def loss_on(weights: Tensor, forget: ForgetSet, part: Part) -> float:
    return float(torch.nn.functional.cross_entropy(*outputs(weights, forget, part)))


@pytest.mark.parametrize("kind", FORGET)
@pytest.mark.parametrize("name", TRAIN)
def test_rounds_are_counted_and_watched_and_details_can_be_written(name: str, kind: str) -> None:
    found, _, path, rounds = unlearn(make_method(name, {}), FORGET[kind])
    assert found.details["rounds"] == rounds == path[-1][0]
    assert [number for number, _ in path] == sorted({number for number, _ in path})
    assert torch.equal(path[-1][1], found.weights)
    assert torch.isfinite(found.weights).all()
    assert json.loads(json.dumps(dict(found.details), allow_nan=False)) == dict(found.details)
    assert found.claim is (Claim.EXACT_RETRAIN if name == "retrain" else Claim.EMPIRICAL)


@pytest.mark.parametrize("name", TRAIN)
def test_whoever_leaves_is_asked_only_where_the_method_says_so(name: str) -> None:
    _, plans, _, _ = unlearn(make_method(name, {}))
    assert any(plan.has_work(LEAVER) for plan in plans) == (name in NEEDS_THE_LEAVER)
    assert all(plan.without == NODE for plan in plans)


@pytest.mark.parametrize("name", sorted(set(TRAIN) - {"retrain"}))
@pytest.mark.parametrize("budget", [8.0, 24.0])
def test_methods_keep_to_the_client_compute_they_are_given(name: str, budget: float) -> None:
    sized = make_method(name, {}).at_compute(budget, SETTINGS.local_epochs)
    stays = len(pooled(TinyTask(), range(NODES), NODE, Part.RETAIN)[1])

    def body(federation: Federation) -> float:
        with federation.measure() as meter:
            sized.unlearn(trained(), federation, NODE)
        return meter.cost(stays).gradient_equivalents

    spent = simulate(TinyTask(), NODES, body)
    # One more round than fits, and what few who leave spend on their own, are allowed.
    assert spent <= budget + 1.5 * SETTINGS.local_epochs + 3.0
    if name == "fed-eraser":  # no more rounds than were kept
        budget = min(budget, SETTINGS.rounds / 2)
    assert spent >= budget - 1e-9


@pytest.mark.parametrize("kind", FORGET)
def test_retraining_is_training_without_what_leaves(kind: str) -> None:
    forget = FORGET[kind]
    anew = simulate(TinyTask(), NODES, lambda f: f.fit(start(), SETTINGS, without=forget))
    assert torch.equal(unlearn(Retrain(), forget)[0].weights, anew.weights)


def test_ascent_climbs_inside_of_its_ball_and_no_higher_than_a_guess() -> None:
    settings = GradientAscentSettings(rounds=1, ascent_epochs=200, ascent_rate=0.05, radius=0.05)
    found, plans, path, _ = unlearn(GradientAscent(settings))
    climbed = path[0][1]
    reference = plans[1].reference
    assert reference is not None
    assert float((climbed - reference).norm()) <= found.details["radius"] * (1 + 1e-9)
    assert found.details["radius"] == pytest.approx(0.05 * float((reference - start()).norm()))
    assert loss_on(climbed, NODE, Part.FORGET) > loss_on(reference, NODE, Part.FORGET)

    wide = settings.model_copy(update={"radius": 100.0})
    climbed = unlearn(GradientAscent(wide))[2][0][1]
    assert loss_on(climbed, NODE, Part.FORGET) < 2.0 * math.log(3.0)


def test_the_reference_of_ascent_is_a_round_of_those_who_stay() -> None:
    _, plans, _, _ = unlearn(GradientAscent(GradientAscentSettings(rounds=1)))
    one = FineTune(FineTuneSettings(rounds=1))
    reference = plans[1].reference
    assert reference is not None
    assert torch.equal(reference, unlearn(one)[0].weights)


def history(every: int) -> tuple[PastRound, ...]:
    kept: tuple[PastRound, ...] = trained().recording(RoundHistory(every), "")
    return kept


@pytest.mark.parametrize("every", [1, 2])
def test_history_holds_what_training_averaged(every: int) -> None:
    kept = history(every)
    assert [past.number for past in kept] == list(range(1, 13, every))
    assert torch.equal(kept[0].before, start())
    sizes = {node: len(TinyTask().data(node)[1]) for node in range(NODES)}
    after = [*(past.before for past in history(1)[1:]), trained().weights]
    for past in kept:
        step = sum(sizes[n] * update for n, update in past.updates.items()) / sum(sizes.values())
        torch.testing.assert_close(past.before + step, after[past.number - 1], rtol=0, atol=1e-9)


def test_a_history_must_have_been_kept() -> None:
    method = FedEraser(FedEraserSettings(every=5))
    with pytest.raises(NotRecordedError, match="history of every 5 rounds"):
        unlearn(method)
    with pytest.raises(NotRecordedError, match="is recorded during training: give it to"):
        simulate(TinyTask(), NODES, lambda f: f.record(trained(), method.to_record()))


def test_fed_eraser_replays_training_where_nothing_leaves() -> None:
    nothing = ForgetSet.of_class(7)
    settings = FedEraserSettings(every=1, calibration_epochs=SETTINGS.local_epochs)
    found = unlearn(FedEraser(settings), nothing)[0]
    torch.testing.assert_close(found.weights, trained().weights, rtol=0, atol=1e-9)


def test_fed_eraser_keeps_lengths_and_turns_directions() -> None:
    alone = ForgetSet.of_nodes(0, 1, 2)  # node 3 stays alone: its update is the round's
    found, _, path, _ = unlearn(FedEraser(FedEraserSettings(every=2)), alone)
    points = [start(), *(weights for _, weights in path)]
    for past, before, after in zip(history(2), points, points[1:], strict=False):
        moved = after - before
        assert float(moved.norm()) == pytest.approx(float(past.updates[3].norm()), rel=1e-6)
    assert not torch.allclose(found.weights, trained().weights, atol=1e-3)


def test_fed_eraser_spreads_fewer_rounds_over_training() -> None:
    _, plans, _, rounds = unlearn(FedEraser(FedEraserSettings(every=1, rounds=4)))
    assert rounds == 4
    assert [plan.first_round for plan in plans] == [1, 4, 7, 10]


def test_a_negated_layer_is_the_first_and_keeps_every_length() -> None:
    settings = WeightNegationSettings(rounds=1, learning_rate=1e-300)
    found = unlearn(WeightNegation(settings))[0]
    layout = ParameterLayout.of(TinyTask().model())
    before, after = layout.unflatten(trained().weights), layout.unflatten(found.weights)
    for name in layout.names:
        sign = -1.0 if name.startswith("0.") else 1.0
        # Weight decay and the schedule are off: a rate this small trains nothing.
        torch.testing.assert_close(after[name], sign * before[name], rtol=1e-9, atol=0.0)
    assert found.details["layer"] == "0"


def test_negation_needs_to_know_the_layers() -> None:
    def body(federation: Federation) -> None:
        federation.layout = None
        WeightNegation().unlearn(trained(), federation, NODE)

    with pytest.raises(TaskError, match="give it a layout"):
        simulate(TinyTask(), NODES, body)


def test_rapid_retraining_starts_anew() -> None:
    _, plans, _, _ = unlearn(RapidRetraining())
    found = simulate(TinyTask(), NODES, lambda f: f.train(start(), plans[0], label=""))
    assert torch.equal(found, unlearn(RapidRetraining())[0].weights)
    assert loss_on(found, NODE, Part.RETAIN) < 0.8 * loss_on(start(), NODE, Part.RETAIN)


def divergence(weights: Tensor, part: Part) -> float:
    """KL of the trained model's predictions from these."""
    own = outputs(weights, NODE, part)[0].log_softmax(1)
    teacher = outputs(trained().weights, NODE, part)[0].log_softmax(1)
    return float(torch.nn.functional.kl_div(own, teacher, reduction="batchmean", log_target=True))


def test_scrub_leaves_its_teacher_where_the_data_leave() -> None:
    settings = ScrubSettings(rounds=6, max_rounds=3, max_rate=0.5, divergence=1.0, loss=0.5)
    found, plans, path, _ = unlearn(Scrub(settings))
    assert [plan.part for plan in plans] == [
        *(Part.FORGET, Part.RETAIN) * 3,
        *(Part.RETAIN,) * 3,
    ]
    # Where student and teacher are the same, no direction leads away: the first max-step is idle.
    assert divergence(path[0][1], Part.FORGET) == pytest.approx(0.0, abs=1e-12)
    assert divergence(path[2][1], Part.FORGET) > 2.0 * divergence(path[1][1], Part.FORGET)
    assert divergence(found.weights, Part.FORGET) > 1.3 * divergence(found.weights, Part.RETAIN)


def test_scrub_without_its_divergences_is_fine_tuning() -> None:
    scrub = Scrub(ScrubSettings(rounds=3, max_rounds=0, divergence=0.0, loss=1.0))
    fine_tune = FineTune(FineTuneSettings(rounds=3))
    assert torch.equal(unlearn(scrub)[0].weights, unlearn(fine_tune)[0].weights)


def test_teachers_cost_a_third_of_a_gradient() -> None:
    stays = len(pooled(TinyTask(), range(NODES), NODE, Part.RETAIN)[1])

    def body(federation: Federation) -> float:
        with federation.measure() as meter:
            Scrub(ScrubSettings(rounds=2, max_rounds=0)).unlearn(trained(), federation, NODE)
        return meter.example_gradients

    assert simulate(TinyTask(), NODES, body) == pytest.approx(2 * 2 * Distillation.cost * stays)


def test_fed_osd_steps_conflict_with_nobody() -> None:
    class Noted(Overheard):
        def train(
            self,
            start: Tensor,
            plan: TrainingPlan,
            on_round: OnRound,
            on_local: OnLocal | None = None,
        ) -> Tensor:
            def noting(number: int, before: Tensor, local: Any) -> None:
                updates[plan.part] = [one.weights - before for one in local.values()]
                if on_local is not None:
                    on_local(number, before, local)

            return super().train(start, plan, on_round, noting)

    updates: dict[Part, list[Tensor]] = {}
    steps: list[Tensor] = []

    def on_round(number: int, weights: Tensor) -> None:
        if number == 1:
            steps.append(weights - trained().weights)
            steps.extend(updates[Part.RETAIN])
            steps.append(updates[Part.FORGET][0])

    def body(federation: Federation) -> None:
        federation.trainer = Noted(federation.trainer)
        FedOsd(FedOsdSettings(unlearning_rounds=1, rounds=1)).unlearn(
            trained(), federation, NODE, on_round=on_round
        )

    simulate(TinyTask(), NODES, body)
    step, *others, wanted = steps
    for other in others:
        assert abs(float(step @ other)) <= 1e-9 * float(step.norm() * other.norm())
    assert float(step.norm()) == pytest.approx(float(wanted.norm()), rel=1e-9)
    assert float(step @ wanted) > 0.0


def test_fed_osd_moves_nowhere_where_everything_conflicts() -> None:
    others = torch.eye(3, dtype=torch.float64)
    assert not orthogonal(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), others).any()


def test_fed_osd_avoids_updates_that_are_nearly_alike() -> None:
    others = torch.zeros(2, 500_000)
    others[:, 0] = 1.0
    others[1, 1] = 1e-3  # far above the rounding of float32, however long the vectors
    step = orthogonal(torch.ones(500_000), others).double()
    for other in others.double():
        assert abs(float(step @ other)) <= 1e-6 * float(step.norm() * other.norm())


@pytest.mark.parametrize("forget", [NODE, ForgetSet.of_samples(0.3, 1)], ids=["node", "samples"])
def test_a_round_of_fed_osd_is_one_broadcast(forget: ForgetSet) -> None:
    def body(federation: Federation) -> tuple[int, int]:
        with federation.measure() as meter:
            found = FedOsd(unlearning_rounds=2, rounds=3).unlearn(trained(), federation, forget)
        return meter.rounds, int(str(found.details["rounds"]))

    assert simulate(TinyTask(), NODES, body) == (5, 5)


def test_fed_osd_recovers_across_the_line_to_the_trained_weights_at_full_length() -> None:
    settings = FedOsdSettings(unlearning_rounds=2, unlearning_rate=0.5, rounds=4)
    _, plans, path, _ = unlearn(FedOsd(settings))
    assert [plan.learning_rate for plan in plans[:4]] == [0.5] * 4  # one rate for all nodes
    away = [float((weights - trained().weights).norm()) for _, weights in path]
    assert away[0] > 0.0
    for before, after in itertools.pairwise(path[1:]):
        step, back = after[1] - before[1], trained().weights - before[1]
        assert abs(float(step @ back)) <= 1e-9 * float(step.norm() * back.norm())
    plan = TrainingPlan(plans[-1].settings, 1, plans[-1].first_round, 1, without=NODE)
    plan = replace(plan, seed=plans[-1].seed)
    before, after = path[-2][1], path[-1][1]
    local = simulate(TinyTask(), NODES, lambda f: f.train_apart(before, plan))
    line = before - trained().weights
    steps = []
    for one in local.values():
        update = one.weights - before
        rest = update - (update @ line) / (line @ line) * line
        steps.append(rest * (update.norm() / rest.norm()))
    wanted = torch.stack(steps).mean(0)  # equal weights, whatever the nodes hold
    torch.testing.assert_close(after - before, wanted, rtol=1e-7, atol=1e-12)


def test_fed_osd_averages_the_leaving_nodes_with_equal_weights() -> None:
    assert torch.equal(across(torch.tensor([1.0, 2.0]), torch.zeros(2)), torch.tensor([1.0, 2.0]))
    turned = across(torch.tensor([3.0, 4.0]), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(turned, torch.tensor([0.0, 5.0]))
