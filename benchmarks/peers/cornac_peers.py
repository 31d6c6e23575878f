"""Cornac's BiVAE, the best row of the table that Microsoft Recommenders publishes, with that table's settings around.

https://github.com/recommenders-team/recommenders/tree/main/examples/06_benchmarks
"""

from typing import Final

import numpy as np
import scipy.sparse as sp
import torch
from cornac.data import Dataset
from cornac.models import BiVAECF

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, grid

if not hasattr(sp.csr_matrix, "A"):  # Cornac 2 asks for it, SciPy 1.14 removed it
    sp.spmatrix.A = property(lambda matrix: matrix.toarray())


def fit_bivae(data: FitData, settings: Settings) -> Scorer:
    """Users and items of the training only; others get no score."""
    torch.set_num_threads(1)
    rows = zip(data.train.user_idx.tolist(), data.train.item_idx.tolist(), np.ones(len(data.train)), strict=True)
    dataset = Dataset.from_uir(rows, seed=data.seed)
    model = BiVAECF(
        **settings,
        encoder_structure=[200],
        act_fn="tanh",
        likelihood="pois",
        learning_rate=0.001,
        seed=data.seed,
        use_gpu=False,
    )
    model.fit(dataset)
    items = np.array(dataset.item_ids)

    def score(requests: Requests) -> Float32:
        scores = np.full((len(requests), data.n_items), -np.inf, np.float32)
        for row, user in enumerate(requests.user_idx):
            if int(user) in dataset.uid_map:
                scores[row, items] = model.score(dataset.uid_map[int(user)])
        return scores

    return score


RUNS: Final[dict[str, Run]] = {
    "cornac-bivae": by_search(fit_bivae, grid(k=(50, 100), n_epochs=(200,), batch_size=(128,))),
}
