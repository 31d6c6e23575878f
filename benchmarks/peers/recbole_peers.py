"""RecBole's MultiVAE, fitted and asked by its own classes; settings are searched by ours."""

import tempfile
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.data.utils import get_dataloader
from recbole.model.general_recommender import MultiVAE
from recbole.trainer import Trainer
from recbole.utils import init_seed

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, grid

_NAME: Final = "task"
_FIXED: Final[dict[str, Any]] = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "load_col": {"inter": ["user_id", "item_id"]},
    "benchmark_filename": ["train"],
    "train_batch_size": 512,
    "train_neg_sample_args": None,
    "use_gpu": False,
    "show_progress": False,
    "state": "CRITICAL",
    "learning_rate": 0.001,
}


def fit_multivae(data: FitData, settings: Settings) -> Scorer:
    """Users and items of the training only; others get no score."""
    torch.set_num_threads(1)
    getLogger().setLevel(CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / _NAME
        place.mkdir()
        table = pd.DataFrame({"user_id:token": data.train.user_idx, "item_id:token": data.train.item_idx})
        table.drop_duplicates().to_csv(place / f"{_NAME}.train.inter", sep="\t", index=False)
        settings = _FIXED | settings | {"data_path": folder, "checkpoint_dir": folder, "seed": data.seed}
        config = Config(model="MultiVAE", dataset=_NAME, config_dict=settings)
        init_seed(data.seed, reproducibility=True)
        dataset = create_dataset(config).build()[0]
        loader = get_dataloader(config, "train")(config, dataset, None, shuffle=True)
        model = MultiVAE(config, loader.dataset)
        Trainer(config, model).fit(loader, verbose=False, saved=False)
    model.eval()
    users = {int(token): place for token, place in dataset.field2token_id["user_id"].items() if token != "[PAD]"}
    tokens = dataset.field2id_token["item_id"][1:]
    items = np.array([int(token) for token in tokens])

    def score(requests: Requests) -> Float32:
        scores = np.full((len(requests), data.n_items), -np.inf, np.float32)
        known = np.array([int(user) in users for user in requests.user_idx])
        asked = Interaction({"user_id": torch.tensor([users[int(user)] for user in requests.user_idx[known]])})
        with torch.no_grad():
            found = model.full_sort_predict(asked).view(int(known.sum()), -1).numpy()
        scores[np.ix_(known, items)] = found[:, 1:]
        return scores

    return score


RUNS: Final[dict[str, Run]] = {
    "recbole-multivae": by_search(
        fit_multivae, grid(latent_dimension=(64, 128), mlp_hidden_size=([600],), epochs=(50, 100))
    ),
}
