"""Training of the sequence model: windows, loss, network, what it learns, how it is brought up to date and exported."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from recsys.config import SequenceConfig
from recsys.errors import ConfigError, DataError
from recsys.histories import History, InteractionLog
from recsys.models.sequence import SequenceModel
from training.sequence import SequenceFit, fit_sequence
from training.sequence_batches import Batch, SequenceData, batches
from training.sequence_loop import SoftmaxItems, _rate
from training.sequence_loss import Columns, masked_logits, softmax_loss
from training.sequence_module import Dropout, SequenceNetwork

Float32 = npt.NDArray[np.float32]

N_ITEMS = 12
N_KINDS = 5
SECOND = 1_000_000
SMALL = SequenceConfig(
    embedding_size=16,
    n_layers=1,
    max_length=8,
    overlap=0.25,
    dropout=0.0,
    item_dropout=0.0,
    epochs=12,
    batch_tokens=64,
    learning_rate=1e-2,
    patience=50,
    mixed_precision="off",
    device="cpu",
)


def make_log(sequences: list[list[int]], n_items: int = N_ITEMS) -> InteractionLog:
    """Return a log of one user per sequence, a minute between interactions."""
    users = np.concatenate([np.full(len(items), user) for user, items in enumerate(sequences)])
    times = np.concatenate([np.arange(len(items)) for items in sequences]) * 60 * SECOND
    items = np.concatenate([np.asarray(items) for items in sequences])
    return InteractionLog.from_arrays(
        users.astype(np.int32),
        items.astype(np.int32),
        times.astype(np.int64),
        np.ones(len(users), np.float32),
        n_users=len(sequences),
        n_items=n_items,
    )


def cycles(n_users: int, n_items: int = N_ITEMS, length: int = 7) -> InteractionLog:
    """Return a log in which item i + 1 follows item i; everybody begins elsewhere."""
    return make_log([[(user + step) % n_items for step in range(length)] for user in range(n_users)], n_items)


def texts(n_items: int = N_ITEMS, seed: int = 1) -> Float32:
    return np.random.default_rng(seed).standard_normal((n_items, N_KINDS)).astype(np.float32)


def history(items: list[int]) -> History:
    times = np.arange(len(items), dtype=np.int64) * 60 * SECOND
    return History(np.array(items, np.int32), times, np.ones(len(items), np.float32))


def fitted(
    log: InteractionLog, config: SequenceConfig = SMALL, seed: int = 0, start: SequenceFit | None = None
) -> SequenceFit:
    return fit_sequence(log, texts(log.n_items), config, np.random.SeedSequence(seed), start=start)


def left_out(batch: Batch) -> list[list[int]]:
    """Return the items that each target's row leaves out."""
    return [batch.had[start:stop].tolist() for start, stop in zip(batch.had_from, batch.had_to, strict=True)]


# -- windows and batches


def test_every_interaction_but_the_first_is_told_once_from_what_came_before_it() -> None:
    log = make_log([list(range(n)) for n in (1, 2, 8, 9, 10, 31)], 31)
    data = SequenceData(log)
    rng = np.random.default_rng(0)
    for _ in range(5):
        windows = data.windows(8, 0.4, rng)
        assert (windows.stop - windows.start <= 8).all()
        told = np.concatenate(
            [np.arange(first, stop) + 1 for first, stop in zip(windows.first, windows.stop, strict=True)]
        )
        first_rows = log.indptr[:-1]
        assert sorted(told) == sorted(set(range(len(log))) - set(first_rows.tolist()))
        continues = ~np.isin(windows.start, first_rows)
        assert continues.any()
        assert (windows.first - windows.start)[continues].tolist() == [3] * int(continues.sum())
        assert (log.user_idx[windows.start] == log.user_idx[windows.stop]).all()


def test_long_histories_are_cut_elsewhere_each_time() -> None:
    data = SequenceData(make_log([list(range(31))], 31))
    rng = np.random.default_rng(0)
    cuts = {tuple(data.windows(8, 0.4, rng).stop.tolist()) for _ in range(20)}
    assert len(cuts) > 1


def test_log_without_pairs_has_no_windows() -> None:
    assert len(SequenceData(make_log([[1], [2]])).windows(8, 0.25, np.random.default_rng(0))) == 0


def test_batch_leaves_out_what_the_user_had_and_never_asks_for_it_again() -> None:
    data = SequenceData(make_log([[9], [3, 5, 3, 7]]))
    batch = data.batch(data.windows(8, 0.25, np.random.default_rng(0)), data.is_target)
    assert batch.item_idx[0, :3].tolist() == [3, 5, 3]
    assert batch.target.tolist() == [5, 7]
    assert batch.place.tolist() == [0, 2]
    assert left_out(batch) == [[3], [3, 5]]
    assert batch.gap_bucket[0, :3].tolist() == [0, 6, 6]
    assert batch.index_bucket[0, :3].tolist() == [0, 2, 3]


def test_rows_that_may_not_be_told_are_no_targets() -> None:
    data = SequenceData(make_log([[3, 5, 6, 7]]))
    allowed = data.is_target.copy()
    allowed[2] = False
    batch = data.batch(data.windows(8, 0.25, np.random.default_rng(0)), allowed)
    assert batch.target.tolist() == [5, 7]


def test_window_before_a_row_tells_that_row_alone() -> None:
    data = SequenceData(make_log([[0, 1, 2], list(range(11))]))
    batch = data.batch(data.windows_before(np.array([2, 13]), 8), data.is_target)
    assert batch.item_idx[0, :2].tolist() == [0, 1]
    assert batch.item_idx[1, :8].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert batch.target.tolist() == [2, 10]
    assert left_out(batch) == [[0, 1], list(range(10))]


def test_last_targets_are_last_interactions_with_something_new() -> None:
    assert SequenceData(make_log([[1], [2, 3], [4, 5, 4], [6, 7, 8]])).last_targets().tolist() == [2, 8]


@pytest.mark.parametrize("n_negatives", [3, 1_000])
def test_logits_of_what_a_user_had_are_left_out_of_full_and_sampled_softmax(n_negatives: int) -> None:
    log = make_log([[9, 1, 9, 2, 3, 2, 8], [4, 4, 5, 0, 1], [6, 7]])
    config = SMALL.model_copy(update={"max_softmax_items": 4, "n_negatives": n_negatives})
    data, softmax = SequenceData(log), SoftmaxItems(log, config, torch.device("cpu"))
    windows = data.windows(4, 0.25, np.random.default_rng(0))
    for part in batches(windows, 8, np.random.default_rng(1)):
        batch = data.batch(part, data.is_target)
        items, columns = softmax.columns(batch, np.random.default_rng(2))
        logits = masked_logits(torch.zeros(len(batch), 1), torch.zeros(len(items), 1), columns, 0, len(batch))
        had = [set(items_) & set(items.tolist()) for items_ in left_out(batch)]
        assert [set(items[row.isneginf()].tolist()) for row in logits] == had
        assert items[columns.target].tolist() == batch.target.tolist()


@pytest.mark.parametrize("max_softmax_items", [1_000, 10])
def test_memory_of_a_batch_does_not_grow_with_the_square_of_a_history(max_softmax_items: int) -> None:
    # 100,000 replays before 300 new items: every replay listed for each of them would be 240 MB an array.
    log = make_log([[*np.tile(np.arange(50), 2_000).tolist(), *range(50, 350)]], 350)
    config = SMALL.model_copy(update={"max_softmax_items": max_softmax_items, "n_negatives": 20, "max_length": 128})
    data, softmax = SequenceData(log), SoftmaxItems(log, config, torch.device("cpu"))
    rng = np.random.default_rng(0)
    told = 0
    tracemalloc.start()
    for part in batches(data.windows(128, 0.25, rng), 2_048, rng):
        batch = data.batch(part, data.is_target)
        told += len(batch)
        if len(batch):
            softmax.columns(batch, rng)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert told == 349
    assert peak < 10_000_000


def test_batches_hold_every_window_once_and_no_more_places_than_allowed() -> None:
    data = SequenceData(make_log([list(range(n)) for n in (2, 30, 31, 17, 40, 5)], 40))
    windows = data.windows(20, 0.2, np.random.default_rng(0))
    parts = list(batches(windows, 64, np.random.default_rng(1)))
    assert len(parts) > 1
    assert sorted(start for part in parts for start in part.start) == sorted(windows.start)
    assert all(data.batch(part, data.is_target).item_idx.size <= 64 for part in parts)


# -- the loss


@pytest.mark.parametrize("n", [3, 700])
def test_loss_and_gradients_are_those_of_the_masked_softmax(n: int) -> None:
    torch.manual_seed(0)
    n_columns, width = 4_000, 5  # so that 700 rows make several chunks
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((n, width), (n_columns, width), (n_columns,))]
    hidden, vectors, bias = inputs
    target = torch.randint(0, n_columns, (n,))
    masked = torch.rand(n, n_columns) < 0.1
    masked[torch.arange(n), target] = False
    correction = torch.rand(n_columns)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), masked.sum(1).cumsum(0)])
    columns = Columns(target, masked.nonzero()[:, 1], indptr[:-1], indptr[1:], correction)
    loss = softmax_loss(hidden, vectors, bias, columns)
    (2 * loss).backward()
    gradients = [value.grad for value in inputs]
    for value in inputs:
        value.grad = None
    is_target = functional.one_hot(target, n_columns).bool()
    logits = hidden @ vectors.t() + bias + torch.where(is_target, 0.0, correction)
    expected = functional.cross_entropy(logits.masked_fill(masked, float("-inf")), target)
    (2 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, value in zip(gradients, inputs, strict=True):
        torch.testing.assert_close(found, value.grad, atol=1e-6, rtol=1e-4)


# -- the network


def test_no_place_sees_what_comes_after_it() -> None:
    torch.manual_seed(0)
    embeddings = torch.from_numpy(texts())
    network = SequenceNetwork(embeddings, torch.ones(N_ITEMS, dtype=torch.bool), SMALL).eval()
    buckets = torch.randint(0, 5, (2, 8))
    vectors = torch.randn(2, 8, SMALL.embedding_size)
    changed = vectors.clone()
    changed[:, 5] = torch.randn(2, SMALL.embedding_size)
    before, after = network.trunk(vectors, buckets, buckets), network.trunk(changed, buckets, buckets)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert ((after[:, 5:] - before[:, 5:]).abs().amax(dim=2) > 1e-4).all()


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    ones = torch.ones(101, 1_003)
    dropped = dropout(ones)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(dropout.eval()(ones), ones)


# -- what it learns


@pytest.mark.parametrize("max_softmax_items", [1_000, 4])
def test_order_of_a_cycle_is_learned_with_full_and_sampled_softmax(max_softmax_items: int) -> None:
    config = SMALL.model_copy(
        update={"max_softmax_items": max_softmax_items, "n_negatives": 3, "epochs": 25, "batch_tokens": 128}
    )
    model = fitted(cycles(60), config).export()
    for first in range(N_ITEMS):
        items = [(first + step) % N_ITEMS for step in range(4)]
        scores = model.score(history(items))
        scores[items] = -np.inf
        assert scores.argmax() == (first + 4) % N_ITEMS


def test_curve_has_a_point_per_epoch_and_falls() -> None:
    fit = fitted(cycles(60), SMALL.model_copy(update={"epochs": 6}))
    assert [point["epoch"] for point in fit.curve] == [1, 2, 3, 4, 5, 6]
    assert fit.curve[-1]["valid_loss"] < fit.curve[0]["valid_loss"] - 0.2
    assert fit.curve[-1]["train_loss"] < fit.curve[0]["train_loss"] - 0.2
    assert 0 <= fit.curve[-1]["valid_ndcg@10"] <= 1
    assert fit.stopped_because == "epochs"


def test_same_seed_gives_the_same_network_and_another_seed_another() -> None:
    log = cycles(20)
    config = SMALL.model_copy(update={"epochs": 2, "dropout": 0.2, "item_dropout": 0.2})
    one, again, other = fitted(log, config), fitted(log, config), fitted(log, config, seed=1)
    for name, value in one.state.items():
        assert torch.equal(value, again.state[name])
    assert not torch.equal(one.state["items.residual"], other.state["items.residual"])


def test_best_state_is_kept_when_it_stops_learning() -> None:
    # Noise: after the first epochs there is nothing to learn but the training's own accidents.
    rng = np.random.default_rng(0)
    log = make_log([rng.permutation(N_ITEMS)[:6].tolist() for _ in range(40)])
    fit = fitted(log, SMALL.model_copy(update={"epochs": 200, "patience": 3, "learning_rate": 0.03}))
    losses = [point["valid_loss"] for point in fit.curve]
    assert fit.stopped_because == "patience"
    assert len(losses) == int(np.argmin(losses)) + 1 + 3


def test_time_ends_the_training_early() -> None:
    fit = fitted(cycles(20), SMALL.model_copy(update={"max_train_seconds": 1e-6}))
    assert (fit.stopped_because, fit.time_was_short) == ("time", True)
    assert len(fit.curve) == 1


class Clock:
    """A clock that an update takes a second of, the first one three; in some of them, more."""

    def __init__(self, delays: dict[int, float] | None = None) -> None:
        self.now, self._n_updates, self._delays = 0.0, 0, {1: 2.0} | (delays or {})

    def monotonic(self) -> float:
        return self.now

    def pass_update(self, *_: object) -> None:
        self._n_updates += 1
        self.now += 1.0 + self._delays.get(self._n_updates, 0.0)


def timed_fit(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, max_train_seconds: float, start: SequenceFit | None = None
) -> SequenceFit:
    monkeypatch.setattr("training.sequence_loop.time", clock)
    config = SMALL.model_copy(update={"epochs": 10, "refit_epochs": 10, "max_train_seconds": max_train_seconds})
    log = cycles(20)
    return fit_sequence(log, texts(), config, np.random.SeedSequence(0), start=start, on_progress=clock.pass_update)


@pytest.mark.parametrize("is_refit", [False, True])
def test_weights_do_not_depend_on_the_clock_where_the_time_does_for_all_epochs(
    is_refit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = fitted(cycles(20), SMALL.model_copy(update={"epochs": 1})) if is_refit else None
    quick = timed_fit(monkeypatch, Clock(), 1e6, start)
    clock = Clock()
    timed_fit(monkeypatch, clock, 1e6, start)
    # A little time remains at the end, and the first updates were behind the schedule.
    slow = timed_fit(monkeypatch, Clock(), clock.now + 0.5, start)

    assert (slow.stopped_because, slow.time_was_short) == ("epochs", False)
    for name, value in quick.state.items():
        assert torch.equal(value, slow.state[name])


def test_rate_falls_with_the_time_where_it_will_not_do_for_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    timed_fit(monkeypatch, clock, 1e6)
    rates: list[float] = []

    def noted(done: float, warmup_share: float) -> float:
        rates.append(done)
        return _rate(done, warmup_share)

    monkeypatch.setattr("training.sequence_loop._rate", noted)
    fit = timed_fit(monkeypatch, Clock(), clock.now / 2)

    assert (fit.stopped_because, fit.time_was_short) == ("time", True)
    assert rates == sorted(rates)
    assert rates[-1] > 0.95
    assert fit.report()["stopped_because"] == "time"


def test_a_rate_that_fell_sooner_is_told_though_all_epochs_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    timed_fit(monkeypatch, clock, 1e6)
    # A hitch early on makes the time look too short; in the end it does.
    fit = timed_fit(monkeypatch, Clock({3: 8.0}), clock.now + 20.0)

    assert (fit.stopped_because, fit.time_was_short) == ("epochs", True)


def test_log_without_anything_to_tell_leaves_the_network_untrained() -> None:
    fit = fitted(make_log([[1], [2]]))
    assert fit.stopped_because == "not trained"
    assert fit.export().score(history([1])).shape == (N_ITEMS,)


def test_items_without_behaviour_stand_where_their_text_places_them() -> None:
    fit = fitted(make_log([[(user + step) % 10 for step in range(7)] for user in range(60)]))
    model = fit.export()
    assert fit.is_trained.tolist() == [True] * 10 + [False] * 2
    np.testing.assert_allclose(model.item_vectors[10:], model.place(texts()[10:]), atol=1e-5)
    assert np.abs(model.item_vectors[:10] - model.place(texts()[:10])).max(axis=1).min() > 1e-2
    assert model.item_bias[10:].tolist() == [pytest.approx(model.new_item_bias)] * 2


def test_progress_counts_the_updates() -> None:
    calls: list[tuple[int, int, float]] = []
    config = SMALL.model_copy(update={"epochs": 2})
    fit_sequence(cycles(20), texts(), config, np.random.SeedSequence(0), on_progress=lambda *call: calls.append(call))
    assert [step for step, _, _ in calls] == list(range(1, len(calls) + 1))
    assert calls[-1][1] == len(calls)


# -- bringing a fitted network up to date


def test_update_starts_from_what_was_learned_and_takes_in_items_that_are_new() -> None:
    cycle_of_ten = [cycles(60, n_items=10).history_of(user).item_idx.tolist() for user in range(60)]
    old = fitted(make_log(cycle_of_ten))
    assert not old.state["items.residual"][10:].any()
    both = make_log([*cycle_of_ten, *([3, 4, 11, 5] for _ in range(30))])
    new = fitted(both, SMALL.model_copy(update={"refit_epochs": 6}), start=old)
    assert len(new.curve) == 6
    assert new.curve[0]["train_loss"] < old.curve[0]["train_loss"]
    assert "valid_loss" not in new.curve[0]
    assert new.state["items.residual"][11].any()
    assert not new.state["items.residual"][10].any()
    scores = new.export().score(history([3, 4]))
    scores[[3, 4]] = -np.inf
    assert scores.argmax() == 11


def test_update_of_no_epochs_changes_nothing() -> None:
    old = fitted(cycles(20), SMALL.model_copy(update={"epochs": 1}))
    new = fitted(cycles(40), SMALL.model_copy(update={"refit_epochs": 0}), start=old)
    assert new.stopped_because == "not trained"
    for name, value in old.state.items():
        assert torch.equal(value, new.state[name])


# -- the export


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceFit, SequenceModel]:
    fit = fitted(cycles(30), SMALL.model_copy(update={"epochs": 1, "n_layers": 2}))
    folder = tmp_path_factory.mktemp("sequence")
    fit.export().save(folder)
    return fit, SequenceModel.load(folder)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 20])
def test_exported_model_says_what_the_network_says(length: int, exported: tuple[SequenceFit, SequenceModel]) -> None:
    fit, model = exported
    items = np.random.default_rng(length).integers(0, N_ITEMS, length).tolist()
    one = history(items)
    embeddings = texts()
    network = SequenceNetwork(torch.zeros(N_ITEMS, N_KINDS), torch.ones(N_ITEMS, dtype=torch.bool), fit.config)
    network.load_state_dict(fit.state)
    centred = embeddings - embeddings.mean(axis=0)
    network.items.text = torch.from_numpy(centred / centred.std() / np.float32(np.sqrt(N_KINDS)))
    network.eval()
    data = SequenceData(make_log([[*items, 0]]))
    batch = data.batch(data.windows_before(np.array([length]), fit.config.max_length), np.ones(length + 1, np.bool_))
    with torch.no_grad():
        vectors = network.items()
        columns = [torch.from_numpy(array) for array in (batch.item_idx, batch.gap_bucket, batch.index_bucket)]
        states = network.trunk(vectors[columns[0]], columns[1], columns[2])
        expected = states[0, int(batch.place[0])]
        expected_scores = vectors @ expected + network.items.bias
    np.testing.assert_allclose(model.user_vector(one), expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(model.score(one), expected_scores.numpy(), atol=1e-3)


# -- errors


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sequence\.n_heads 3 does not divide sequence\.embedding_size 16"):
        fitted(cycles(5), SMALL.model_copy(update={"n_heads": 3}))


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sequence\.device 'nonsense' cannot be used here"):
        fitted(cycles(5), SMALL.model_copy(update={"device": "nonsense"}))


def test_embeddings_of_other_items_are_refused() -> None:
    with pytest.raises(DataError, match="7 item embeddings do not fit a log over 12 items"):
        fit_sequence(cycles(5), texts(7), SMALL, np.random.SeedSequence(0))


def test_embeddings_of_another_encoder_cannot_go_on() -> None:
    old = fitted(cycles(5), SMALL.model_copy(update={"epochs": 1}))
    wider = np.ones((N_ITEMS, 6), np.float32)
    with pytest.raises(DataError, match=r"fitted on embeddings \(12, 5\) cannot go on with \(12, 6\); fit it anew"):
        fit_sequence(cycles(5), wider, SMALL, np.random.SeedSequence(0), start=old)


def test_batch_of_held_out_rows_alone_is_no_divergence() -> None:
    # One interaction to tell per batch, and half of them are held out.
    fit = fitted(make_log([[1, 2], [3, 4], [5, 6], [7, 8]]), SMALL.model_copy(update={"batch_tokens": 1, "epochs": 2}))
    assert fit.stopped_because == "epochs"


def test_divergence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sequence_loop.softmax_loss", lambda hidden, *_: hidden.sum() * float("nan"))
    with pytest.raises(ConfigError, match=r"diverged in epoch 1; lower sequence\.learning_rate \(now 0\.01\)"):
        fitted(cycles(5))
